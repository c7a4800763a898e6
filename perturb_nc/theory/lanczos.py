"""The lowest eigenvalue of the Hessian, relative to that at fixed H, by products alone."""

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.theory.arrays import Rows, total
from perturb_nc.theory.point import Point, wide

_ITERATIONS = 150  # of Lanczos at most
_SMALL = 1e-6  # ... in the Lanczos process


def combined(
    values: Float64[Tensor, "n"], vectors: Float64[Tensor, "m n"], rounding: Tensor
) -> Float64[Tensor, "m"]:
    """A unit vector with a part in every direction of negative curvature."""
    weights = (-values).clamp(min=0.0).sqrt() * (values < -rounding)
    weights = weights * random_rows(len(values), like=values).sign()
    return vectors @ (weights / weights.norm().clamp(min=1e-300))


def random_rows(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    found = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return found.to(like.device)


def lanczos(
    point: Point, top: Float64[Tensor, "B K 1"], idle: int = 0
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"], Rows, Int64[Tensor, "B"]]:
    """Lowest value, residual, direction and products, from a start towards the lift's advice."""
    noise = random_rows(*point.weight.shape[1:], like=point.weight)
    noise[:, noise.shape[1] - idle :] = 0.0
    image = top * noise[0] * math.sqrt(len(noise)) + noise  # Mv
    vectors: list[Tensor] = []  # v, M-orthonormal
    images: list[Tensor] = []  # Mv
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    products = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    active = torch.ones_like(products, dtype=torch.bool)
    steps = min(_ITERATIONS, noise.numel())
    for step in range(steps):
        vector = point.precondition(image)
        size = total(vector * image).clamp(min=0.0).sqrt()
        if step:
            beside.append(size)
            values, shapes = torch.linalg.eigh(_tridiagonal(diagonal, beside))
            residual = size * shapes[:, -1, 0].abs()
            known = (residual < 0.1 * values[:, 0].abs()) | (residual < _SMALL)
            active = active & ~(known & (step > 3))
        if not active.any() or step == steps - 1:
            break
        safe = torch.where(size > 0, size, 1.0)
        vectors.append(vector / wide(safe))
        images.append(image / wide(safe))
        products = products + active
        image = point.hessian_vector_product(vectors[-1])
        diagonal.append(total(vectors[-1] * image))
        for _ in range(2):
            for v, other in zip(vectors, images, strict=True):
                image = image - wide(total(v * image)) * other
    weights = torch.stack(
        [
            combined(own, shape, own.new_tensor(_SMALL))
            for own, shape in zip(values, shapes, strict=True)
        ]
    )
    direction = torch.einsum("bs,sbkd->bkd", weights, torch.stack(vectors))
    return values[:, 0], residual, direction, products


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Float64[Tensor, "B s s"]:
    matrix = torch.diag_embed(torch.stack(diagonal, dim=-1))
    if len(diagonal) > 1:
        off = torch.diag_embed(torch.stack(beside[: len(diagonal) - 1], dim=-1), offset=1)
        matrix = matrix + off + off.mT
    return matrix

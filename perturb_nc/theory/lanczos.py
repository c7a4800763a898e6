"""The lowest eigenvalue of the Hessian, relative to that at fixed H, by products alone."""

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.theory.arrays import Rows, random_normal, total
from perturb_nc.theory.point import Quadratic, wide

_ITERATIONS = 150  # of Lanczos at most
_NUMBERS = 1e8  # in its vectors, beyond ten of them
_ROOM = 32  # vectors, to begin with
_SMALL = 1e-6  # relative curvature that counts as none


def combined(
    values: Float64[Tensor, "... n"], vectors: Float64[Tensor, "... m n"], rounding: Tensor
) -> Float64[Tensor, "... m"]:
    """A unit vector with a part in every direction of negative curvature."""
    weights = (-values).clamp(min=0.0).sqrt() * (values < -rounding)
    weights = weights * random_normal(values.shape[-1], like=values).sign()
    weights = weights / weights.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return (vectors @ weights[..., None])[..., 0]


def lanczos(
    point: Quadratic, top: Float64[Tensor, "B K 1"], idle: int = 0
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"], Rows, Int64[Tensor, "B"]]:
    """Lowest value, residual, direction and products, from a start towards the lift's advice."""
    values, shapes, residual, vectors, products = _process(point, top, idle)
    weights = combined(values, shapes, values.new_tensor(_SMALL))
    return values[:, 0], residual, _made(weights, vectors, point), products


def lowest_pair(
    point: Quadratic, top: Float64[Tensor, "B K 1"], idle: int = 0
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"], Rows, Int64[Tensor, "B"]]:
    """The same with the vector of the lowest value, of norm 1 in M."""
    values, shapes, residual, vectors, products = _process(point, top, idle)
    return values[:, 0], residual, _made(shapes[..., 0], vectors, point), products


def _made(
    weights: Float64[Tensor, "B s"], vectors: Float64[Tensor, "B r n"], point: Quadratic
) -> Rows:
    found = (weights[:, None] @ vectors[:, : weights.shape[1]])[:, 0]
    return found.unflatten(1, point.weight.shape[1:])


def _process(
    point: Quadratic, top: Float64[Tensor, "B K 1"], idle: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Int64[Tensor, "B"]]:
    """Ritz values, their shapes, the residual of the lowest, vectors and products."""
    noise = random_normal(*point.weight.shape[1:], like=point.weight)
    noise[:, noise.shape[1] - idle :] = 0.0
    image = top * noise[0] * math.sqrt(len(noise)) + noise  # Mv
    fitting = max(10, int(_NUMBERS / image.numel()))
    steps = min(_ITERATIONS, noise.numel(), fitting)
    vectors = image.new_zeros(len(image), min(steps, _ROOM), noise.numel())  # v, M-orthonormal
    images = torch.zeros_like(vectors)  # Mv
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    products = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    active = torch.ones_like(products, dtype=torch.bool)
    for step in range(steps):
        vector = point.precondition(image)
        size = total(vector * image).clamp(min=0.0).sqrt()
        if step:
            beside.append(size)
        last = step == steps - 1
        if last or step % 3 == 1:  # the decomposition costs as much as a product
            values, shapes = torch.linalg.eigh(_tridiagonal(diagonal, beside))
            residual = size * shapes[:, -1, 0].abs()
            known = (residual < 0.1 * values[:, 0].abs()) | (residual < _SMALL)
            active = active & ~(known & (step > 3))
        if last or not active.any():
            break
        if step == vectors.shape[1]:
            vectors, images = (
                torch.cat([v, torch.zeros_like(v)], dim=1) for v in (vectors, images)
            )
        scale = wide(torch.where(size > 0, size, 1.0))
        vector = vector / scale
        vectors[:, step], images[:, step] = vector.flatten(1), (image / scale).flatten(1)
        products = products + active
        image = point.hessian_vector_product(vector)
        diagonal.append(total(vector * image))
        inside = vectors[:, : step + 1] @ image.flatten(1)[..., None]
        image = image - (images[:, : step + 1].mT @ inside)[..., 0].unflatten(1, noise.shape)
    return values, shapes, residual, vectors, products


def _tridiagonal(diagonal: list[Tensor], beside: list[Tensor]) -> Float64[Tensor, "B s s"]:
    matrix = torch.diag_embed(torch.stack(diagonal, dim=-1))
    if len(diagonal) > 1:
        off = torch.diag_embed(torch.stack(beside[: len(diagonal) - 1], dim=-1), offset=1)
        matrix = matrix + off + off.mT
    return matrix

"""Second-order conditions: the lowest curvature of g at a point, and directions off a saddle.

Curvature is relative to the Hessian at fixed H, M: V ↦ V(S + (λ_W/K)I): eigenvalues of
M^(-½) ∇²g M^(-½), none of which is above 1. They do not change with the scale of the features, and
see a direction u qᵀ into unused feature dimensions q, where ∇²g is small: with u a left singular
vector of E its curvature is 1 - σ_u(E)²K/(Ncλ_W), below 0 where the certificate's r is above 1.

Where K·d is small the Hessian is formed,

    ∇²g = cG⊗S - (EEᵀ/N)⊗P⁻¹ + (λ_W/K)I - (F_ib X_ja + X_ib F_ja),      X = EHᵀ/N,

elsewhere a Lanczos process on its products goes on until the lowest value is known well enough.
"""

import math
from dataclasses import dataclass
from functools import singledispatch

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.moments import trace
from perturb_nc.theory.arrays import Rows, total
from perturb_nc.theory.newton import Evaluate, Mask, Point, wide
from perturb_nc.theory.reduced import ReducedPoint

_DENSE = 600  # K·d up to which the Hessian is formed
_BYTES = 64 * 2**20  # of such Hessians at once
_ITERATIONS = 150  # of Lanczos at most
_EXACT = 1e-9  # relative curvature that counts as none
_SMALL = 1e-6  # ... in the Lanczos process


@dataclass(frozen=True, eq=False)
class Curvature:
    """What is known of the lowest curvature at B points.

    Attributes:
        lowest: lowest eigenvalue of M^(-½) ∇²g M^(-½), at most 1, to some three digits; a saddle
            where it is below -tolerance.
        tolerance: how far it can be below 0 unseen, for rounding, for a Lanczos process that was
            stopped (the norm of its residual), and for a gradient that is not 0.
        direction: a descent direction made of those of negative curvature, 0 where there are none;
            of the length at which the penalty at fixed H would be all of g.
        products: Hessian-vector products taken.
    """

    lowest: Float64[Tensor, "B"]
    tolerance: Float64[Tensor, "B"]
    direction: Rows
    products: Int64[Tensor, "B"]


@singledispatch
def lowest_curvature(point: Point) -> Curvature:
    """The lowest curvature at the points of a batch."""
    top = torch.linalg.eigh(point.residual_moment).eigenvectors[..., -1:]
    return _completed(point, *_lanczos(point, top), rounding=_SMALL)


@lowest_curvature.register
def _(point: ReducedPoint) -> Curvature:
    _, k, d = point.weight.shape
    scale = (trace(point.moment) / point.ridge[..., 0, 0] + 1) + trace(point.residual_moment) / (
        point.c * point.ridge
    )[..., 0, 0]
    rounding = 8 * torch.finfo(torch.float64).eps * scale
    if k * d > _DENSE:
        top = point.residual_spectrum[1][..., -1:]
        found = _lanczos(point, top, point.idle)
        return _completed(point, *found, rounding=rounding + _SMALL)
    rounding = rounding + _EXACT
    size = max(1, _BYTES // (8 * (k * d) ** 2))
    parts = [
        _formed(point.members(slice(i, i + size)), rounding[i : i + size])
        for i in range(0, len(point.weight), size)
    ]
    lowest, direction = (torch.cat(found) for found in zip(*parts, strict=True))
    products = torch.zeros(len(lowest), dtype=torch.int64, device=lowest.device)
    return _completed(point, lowest, rounding, direction, products, rounding=0.0)


def _completed(
    point: Point,
    lowest: Float64[Tensor, "B"],
    tolerance: Float64[Tensor, "B"],
    direction: Rows,
    products: Int64[Tensor, "B"],
    rounding: Float64[Tensor, "B"] | float,
) -> Curvature:
    uphill = total(point.gradient * direction) > 0
    length = (2 * point.excess).sqrt() * torch.where(uphill, -1.0, 1.0)
    # Turning W with the features, V = WA, changes g by the gradient alone.
    size = total(point.weight.square()).sqrt()
    beside = total(point.precondition(point.gradient).square()).sqrt()
    inexact = torch.where(size > 0, beside / size, 0.0)
    return Curvature(lowest, tolerance + rounding + inexact, wide(length) * direction, products)


def _formed(
    point: ReducedPoint, rounding: Float64[Tensor, "b"]
) -> tuple[Float64[Tensor, "b"], Rows]:
    """The lowest eigenvalue and a combination of the eigenvectors below -rounding."""
    b, k, d = point.weight.shape
    identity = torch.diag(point.weight.new_ones(d))
    root = torch.linalg.solve_triangular(point.stiffness, identity.expand(b, d, d), upper=False)
    ridge = point.ridge * (root @ root.mT)  # (λ_W/K)M⁻¹, in coordinates where M = I
    inverse = root @ point.solve(root).mT
    lift, overlap = point.lift @ root.mT, point.overlap @ root.mT
    blocks = torch.einsum("nij,nab->niajb", point.c * point.gain, identity - ridge)
    blocks -= torch.einsum("nij,nab->niajb", point.residual_moment, inverse)
    blocks -= torch.einsum("nib,nja->niajb", lift, overlap)
    blocks -= torch.einsum("nib,nja->niajb", overlap, lift)
    blocks.diagonal(dim1=1, dim2=3).add_(ridge[..., None])
    for i in range(d - point.idle, d):  # nowhere to go
        blocks[:, :, i], blocks[:, :, :, :, i] = 0.0, 0.0
        blocks[:, :, i, :, i] = torch.diag(blocks.new_ones(k))
    hessian = blocks.reshape(b, k * d, k * d)
    lowest, direction = _judged(0.5 * (hessian + hessian.mT), rounding)
    return lowest, direction.unflatten(1, (k, d)) @ root


def _judged(
    matrices: Float64[Tensor, "b n n"], rounding: Float64[Tensor, "b"]
) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b n"]]:
    """A Cholesky factor proves most matrices >= -rounding; the others are decomposed."""
    shifted = matrices.clone()
    shifted.diagonal(dim1=1, dim2=2).add_(rounding[:, None])
    roots, failed = torch.linalg.cholesky_ex(shifted)
    direction = matrices.new_zeros(matrices.shape[:2])
    vectors = _random(matrices.shape[1], 4, like=matrices).expand(len(matrices), -1, -1)
    for _ in range(16):  # inverse iteration
        vectors = torch.linalg.qr(torch.cholesky_solve(vectors, roots)).Q
    inner = vectors.mT @ matrices @ vectors
    proven = (failed == 0)[:, None, None]
    lowest = torch.linalg.eigvalsh(torch.where(proven, inner, 0.0))[:, 0]
    for i in failed.nonzero().flatten().tolist():
        values, vectors = torch.linalg.eigh(matrices[i])
        lowest[i], direction[i] = values[0], _combined(values, vectors, rounding[i])
    return lowest, direction


def _combined(
    values: Float64[Tensor, "n"], vectors: Float64[Tensor, "m n"], rounding: Tensor
) -> Float64[Tensor, "m"]:
    """A unit vector with a part in every direction of negative curvature."""
    weights = (-values).clamp(min=0.0).sqrt() * (values < -rounding)
    weights = weights * _random(len(values), like=values).sign()
    return vectors @ (weights / weights.norm().clamp(min=1e-300))


def _random(*shape: int, like: Tensor) -> Tensor:
    generator = torch.Generator("cpu").manual_seed(0)
    found = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return found.to(like.device)


def _lanczos(
    point: Point, top: Float64[Tensor, "B K 1"], idle: int = 0
) -> tuple[Float64[Tensor, "B"], Float64[Tensor, "B"], Rows, Int64[Tensor, "B"]]:
    """Lowest value, residual, direction and products, from a start towards the lift's advice."""
    noise = _random(*point.weight.shape[1:], like=point.weight)
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
            _combined(own, shape, own.new_tensor(_SMALL))
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


@singledispatch
def advised(point: Point, evaluate: Evaluate, wanted: Mask) -> tuple[Point, Mask]:
    """The points after the lift's advice where `wanted` and where it gains, and where it did."""
    return point, torch.zeros_like(wanted)


@advised.register
def _(point: ReducedPoint, evaluate: Evaluate, wanted: Mask) -> tuple[Point, Mask]:
    """W + Σ t_i u_i q_iᵀ into the feature directions q_i that are used least.

    u_i are left singular vectors of E with r_i = σ_i²K/(Ncλ_W) > 1. Where q_i is unused, g along
    t_i alone is least at t_i² = (√r_i - 1)/(u_iᵀGu_i); directions with qᵀSq above a tenth of λ_W/K
    are left out. (docs §4.2: if d >= rank(H0) + K only such directions lead from a stationary
    point that is not global.)
    """
    k, d = point.weight.shape[1:]
    # A look at few directions tells whether any is unused.
    spread, _ = _least_used(point, min(4, k, d - point.idle))
    limit = 0.1 * point.ridge[..., 0]
    sound = point.stiffness.isfinite().all(-1).all(-1)  # what is badly scaled is not moved
    wanted = wanted & sound & (spread < limit).any(-1)
    if wanted.any():
        squares, vectors = point.residual_spectrum
        ratios = squares / (point.c * point.ridge)[..., 0]
        wanted = wanted & (ratios[..., -1] > 1)
    if not wanted.any():
        return point, wanted
    count = min(k, d - point.idle)
    spread, rows = _least_used(point, count)
    ratios, vectors = ratios.flip(-1)[..., :count], vectors.flip(-1)[..., :count]
    room = (spread < limit) & (ratios > 1)
    stiffness = (vectors * (point.gain @ vectors)).sum(-2)
    lengths = torch.where(room, (ratios.clamp(min=1.0).sqrt() - 1) / stiffness, 0.0).sqrt()
    trial = evaluate(point.weight + (vectors * lengths[..., None, :]) @ rows)
    better = wanted & (trial.excess < point.excess * (1 - 1e-12))
    if not better.any():
        return point, better
    if not better.all():
        trial = evaluate(torch.where(wide(better), trial.weight, point.weight))
    return trial, better


def _least_used(
    point: ReducedPoint, count: int
) -> tuple[Float64[Tensor, "B n"], Float64[Tensor, "B n d"]]:
    """Orthonormal directions q in which features vary least, and qᵀSq, by inverse iteration."""
    used = point.weight.shape[2] - point.idle
    rows = torch.nn.functional.pad(_random(count, used, like=point.weight), (0, point.idle))
    rows = rows.expand(len(point.weight), *rows.shape)
    for _ in range(2):
        rows = torch.linalg.qr(point.precondition(rows).mT).Q.mT
    inner = rows @ point.moment @ rows.mT
    spread, turn = torch.linalg.eigh(torch.where(inner.isfinite(), inner, 0.0))  # raises for NaN
    return spread, turn.mT @ rows

"""Second-order conditions: the lowest curvature of g at a point, and directions off a saddle.

Curvature is relative to the Hessian at fixed H, M: V ↦ V(S + (λ_W/K)I): eigenvalues of
M^(-½) ∇²g M^(-½), none of which is above 1. They do not change with the scale of the features, and
see a direction u qᵀ into unused feature dimensions q, where ∇²g is small: with u a left singular
vector of E its curvature is 1 - σ_u(E)²K/(Ncλ_W), below 0 where the certificate's r is above 1.

Where K·d is small the Hessian is formed,

    ∇²g = cG⊗S - (EEᵀ/N)⊗P⁻¹ + (λ_W/K)I - (F_ib X_ja + X_ib F_ja),      X = EHᵀ/N,

elsewhere a Lanczos process on its products goes on until the lowest value is known well enough.

A point is stationary up to its gradient G only. Where features are free to turn, a stationary W has
no curvature along V = WA, A antisymmetric; here it has -⟨G, WA²⟩, of either sign, which relative to
M is of size |uᵀG|K/(λ_Wσ_u) for a singular vector u of W with a small σ_u, and near -1 by a saddle
with σ_u = 0. So where curvature is found negative Newton's steps say what it is where the gradient
is none: at an optimum it is gone, at a saddle it stays.
"""

from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.moments import trace
from perturb_nc.theory.arrays import Rows, random_normal, total
from perturb_nc.theory.lanczos import combined, lanczos
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.point import Point, wide
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.settled import Settled, pays

_DENSE = 600  # K·d up to which the Hessian is formed
_BYTES = 64 * 2**20  # of such Hessians at once
_EXACT = 1e-9  # relative curvature that counts as none
_TOGETHER = 8  # members in one Lanczos process, for the cache
_STATIONARY = 1e-8  # gradient norm: what it changes in a product is below what is judged
_SMALL = 1e-6  # ... in the Lanczos process
_POLISH = 4  # Newton steps from a doubtful point
_RESOLVED = 1e-4  # relative residual of these


@dataclass(frozen=True, eq=False)
class Curvature:
    """What is known of the lowest curvature at B points.

    Attributes:
        lowest: lowest eigenvalue of M^(-½) ∇²g M^(-½), at most 1, to some three digits; a saddle
            where it is below -tolerance.
        tolerance: how far it can be below 0 unseen, for rounding, for a Lanczos process that was
            stopped (the norm of its residual), and for a gradient that is not 0: where more was
            seen, by as much as it changes in Newton's steps from there.
        direction: a descent direction made of those of negative curvature, 0 where there are none;
            of the length at which the penalty at fixed H would be all of g.
        products: Hessian-vector products taken.
    """

    lowest: Float64[Tensor, "B"]
    tolerance: Float64[Tensor, "B"]
    direction: Rows
    products: Int64[Tensor, "B"]


def lowest_curvature(point: Point) -> Curvature:
    """The lowest curvature at the points of a batch."""
    found = _found(point)
    doubtful = (found.lowest < -found.tolerance).nonzero()[:, 0]
    if not len(doubtful):
        return found
    inexact, products = _inexact(point.members(doubtful), found.lowest[doubtful])
    return replace(
        found,
        tolerance=found.tolerance.index_add(0, doubtful, inexact),
        products=found.products.index_add(0, doubtful, products),
    )


def _inexact(
    point: Any, lowest: Float64[Tensor, "b"]
) -> tuple[Float64[Tensor, "b"], Int64[Tensor, "b"]]:
    """By how much the lowest curvature changes where Newton's steps lead, and products taken."""
    products = torch.zeros(len(lowest), dtype=torch.int64, device=lowest.device)
    start = point
    for _ in range(_POLISH):
        solved = solve_hessian(point, -point.gradient, _RESOLVED)
        products = products + solved.products
        trial = replace(point, weight=point.weight + solved.solution)
        nearer = trial.gradient_norm < 0.5 * point.gradient_norm
        if not nearer.any():
            break
        point = replace(point, weight=torch.where(wide(nearer), trial.weight, point.weight))
    if point is start:
        return torch.zeros_like(lowest), products
    there = _found(point)
    return (there.lowest - lowest).abs(), products + there.products


@singledispatch
def _found(point: Point) -> Curvature:
    """The lowest curvature at points that are taken for stationary."""
    top = torch.linalg.eigh(point.residual_moment).eigenvectors[..., -1:]
    return _completed(point, *lanczos(point, top), rounding=_SMALL)


@_found.register
def _(point: ReducedPoint) -> Curvature:
    _, k, d = point.weight.shape
    scale = (point.moment_trace / point.ridge[..., 0, 0] + 1) + trace(point.residual_moment) / (
        point.c * point.ridge
    )[..., 0, 0]
    rounding = 8 * torch.finfo(torch.float64).eps * scale
    if k * d > _DENSE:
        top = point.residual_spectrum[1][..., -1:]
        cuts = [slice(i, i + _TOGETHER) for i in range(0, len(top), _TOGETHER)]
        runs = [_by_products(point.members(rows), top[rows]) for rows in cuts]
        lowest, residual, direction, products = map(torch.cat, zip(*runs, strict=True))
        tolerance = residual + rounding + _SMALL
        return _completed(point, lowest, tolerance, direction, products, rounding=0.0)
    rounding = rounding + _EXACT
    size = max(1, _BYTES // (8 * (k * d) ** 2))
    parts = [
        _formed(point.members(slice(i, i + size)), rounding[i : i + size])
        for i in range(0, len(point.weight), size)
    ]
    lowest, direction = (torch.cat(found) for found in zip(*parts, strict=True))
    products = torch.zeros(len(lowest), dtype=torch.int64, device=lowest.device)
    return _completed(point, lowest, rounding, direction, products, rounding=0.0)


def _by_products(
    point: ReducedPoint, top: Float64[Tensor, "b K 1"]
) -> tuple[Float64[Tensor, "b"], Float64[Tensor, "b"], Rows, Int64[Tensor, "b"]]:
    """`lanczos`, of very large points with the products of a stationary one."""
    if point.idle or not pays(point, _STATIONARY):
        return lanczos(point, top, point.idle)
    settled = Settled.of(point, 0.0)
    lowest, residual, direction, products = lanczos(settled, settled.left.mT @ top)
    return lowest, residual, settled.outward(direction), products


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
    vectors = random_normal(matrices.shape[1], 4, like=matrices).expand(len(matrices), -1, -1)
    for _ in range(16):  # inverse iteration
        vectors = torch.linalg.qr(torch.cholesky_solve(vectors, roots)).Q
    inner = vectors.mT @ matrices @ vectors
    proven = (failed == 0)[:, None, None]
    lowest = torch.linalg.eigvalsh(torch.where(proven, inner, 0.0))[:, 0]
    for i in failed.nonzero().flatten().tolist():
        values, vectors = torch.linalg.eigh(matrices[i])
        lowest[i], direction[i] = values[0], combined(values, vectors, rounding[i])
    return lowest, direction

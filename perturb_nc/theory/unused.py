"""Directions that features leave unused, where the lift says that W should reach there."""

from functools import singledispatch

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.arrays import Mask, random_normal
from perturb_nc.theory.point import Evaluate, Point, wide
from perturb_nc.theory.reduced import ReducedPoint


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
    limit = 0.1 * point.ridge[..., 0]
    wanted = wanted & (point.least_spread[..., 0] < limit)[..., 0]
    if not wanted.any():
        return point, wanted
    # A look at few directions tells whether any is unused; what is badly scaled is not moved.
    spread, _ = _least_used(point, min(4, k, d - point.idle))
    wanted = wanted & point.usable & (spread < limit).any(-1)
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
    rows = torch.nn.functional.pad(random_normal(count, used, like=point.weight), (0, point.idle))
    rows = rows.expand(len(point.weight), *rows.shape)
    for _ in range(2):
        rows = torch.linalg.qr(point.precondition(rows).mT).Q.mT
    inner = point.through_moment(rows) @ rows.mT
    spread, turn = torch.linalg.eigh(torch.where(inner.isfinite(), inner, 0.0))  # raises for NaN
    return spread, turn.mT @ rows

"""A step that does not make the objective worse, for many settings at once."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.theory.arrays import Mask, Rows, total
from perturb_nc.theory.point import Point, Points, wide

Values = Float64[Tensor, "b"]  # here: made at every call they would cost more than the products
Index = Int64[Tensor, "b"]
_ROUNDING = 8 * torch.finfo(torch.float64).eps


def line_search(points: Points, point: Point, direction: Rows, expand: Mask) -> tuple[Point, Mask]:
    """The next point along descent directions; False where rounding hides any decrease.

    Halves the step from 1 until g falls enough (Armijo). Where `expand` - along negative curvature,
    where no step length is natural - it then doubles the step for as long as g keeps falling.
    Only the members that need a further step are evaluated there.
    """
    slope = total(point.gradient * direction).clamp(max=0.0)
    start, norm = point.excess, point.gradient_norm
    rounding = _ROUNDING * start
    step, everywhere = torch.ones_like(start), torch.arange(len(start), device=start.device)

    def along(step: Values, rows: Index) -> Point:
        """The points at these steps."""
        return points(rows)(point.weight[rows] + wide(step) * direction[rows])

    def accepts(trial: Point, rows: Index) -> Mask:
        """Where the decrease is enough."""
        value, own = _excess(trial), start[rows]
        enough = value <= own + 1e-4 * step[rows] * slope[rows] + rounding[rows]
        # Near the optimum the decrease drowns in the rounding of g, but not that of its gradient.
        halved = trial.gradient_norm <= 0.5 * norm[rows]
        return enough | ((step[rows] == 1) & (value <= own * (1 + 1e-8)) & halved)

    trial = along(step, everywhere)
    good = accepts(trial, everywhere)
    for _ in range(60):
        if good.all():
            break
        rows = (~good).nonzero()[:, 0]
        step[rows] /= 2
        good[rows] = accepts(along(step[rows], rows), rows)
    rows = (good & expand).nonzero()[:, 0]
    value = _excess(along(step[rows], rows)) if len(rows) else start
    for _ in range(60):
        if not len(rows):
            break
        longer = _excess(along(2 * step[rows], rows))
        falls = longer < value - rounding[rows]
        rows, value = rows[falls], longer[falls]
        step[rows] *= 2
    if (step != 1).any():
        trial = along(step, everywhere)
    gained = (_excess(trial) < start - rounding) | (trial.gradient_norm < norm)
    return trial, good & gained


def realigned(points: Points, point: Point, wanted: Mask) -> Point:
    """The point after the best joint rotation of W and H, where `wanted` and where it gains.

    Only the anchor term of f sees W → WQᵀ, H → QH; it is least at the polar factor of H0Hᵀ. Where β
    is small the optimum lies along a curved valley of such rotations, which Newton's steps follow
    slowly. Q acts on the span of W, WA and WAᵀ, A = HH0ᵀ/N, which keeps this at O(Kd²).
    """
    rows = wanted.nonzero()[:, 0]
    few = point.members(rows)
    w = few.layer
    reach = (w, *(few.anchor_overlap(w, transposed=t) for t in (False, True)))
    basis = torch.linalg.qr(torch.cat(reach, dim=-2).mT).Q.mT
    overlap = few.anchor_overlap(basis, transposed=False) @ basis.mT
    u, _, vh = torch.linalg.svd(overlap)
    rotation = (u @ vh).mT
    read = w @ basis.mT
    turned = (read @ rotation.mT - read) @ basis
    turned[..., turned.shape[-1] - getattr(point, "idle", 0) :] = 0.0
    others = few.weight.shape[-1] - w.shape[-1]
    trial = points(rows)(few.weight + torch.nn.functional.pad(turned, (0, others)))
    better = trial.excess < few.excess * (1 - _ROUNDING)
    if not better.any():
        return point
    weight = point.weight.index_copy(0, rows[better], trial.weight[better])
    return points(torch.arange(len(weight), device=weight.device))(weight)


def _excess(point: Point) -> Float64[Tensor, "B"]:
    """The excess, infinite where a weight is so large that WWᵀ + cI is no longer definite."""
    return torch.where(point.excess.isfinite(), point.excess, torch.inf)

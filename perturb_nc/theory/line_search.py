"""A line search for many members of a batch at once."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.theory.arrays import Mask, Rows, total
from perturb_nc.theory.newton import ROUNDING, Point, Points, wide


def line_search(points: Points, point: Point, direction: Rows, expand: Mask) -> tuple[Point, Mask]:
    """The next point along descent directions; False where rounding hides any decrease.

    Halves the step from 1 until g falls enough (Armijo). Where `expand` - along negative curvature,
    where no step length is natural - it then doubles the step for as long as g keeps falling.
    Only the members that need a further step are evaluated there.
    """
    slope = total(point.gradient * direction).clamp(max=0.0)
    start, norm = point.excess, point.gradient_norm
    rounding = ROUNDING * start
    step, everywhere = torch.ones_like(start), torch.arange(len(start), device=start.device)

    def along(step: Float64[Tensor, "b"], rows: Int64[Tensor, "b"]) -> Point:
        return points(rows)(point.weight[rows] + wide(step) * direction[rows])

    def accepts(trial: Point, rows: Int64[Tensor, "b"]) -> Mask:
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


def _excess(point: Point) -> Float64[Tensor, "B"]:
    """The excess, infinite where a weight is so large that WWᵀ + cI is no longer definite."""
    return torch.where(point.excess.isfinite(), point.excess, torch.inf)

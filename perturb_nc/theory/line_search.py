"""A step that does not make the objective worse, for many settings at once."""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.arrays import Rows, total
from perturb_nc.theory.point import Evaluate, Mask, Point, wide

_ROUNDING = 8 * torch.finfo(torch.float64).eps


def line_search(
    evaluate: Evaluate, point: Point, direction: Rows, expand: Mask
) -> tuple[Point, Mask]:
    """The next point along descent directions; False where rounding hides any decrease.

    Halves the step from 1 until g falls enough (Armijo). Where `expand` - along negative curvature,
    where no step length is natural - it then doubles the step for as long as g keeps falling.
    """
    slope = total(point.gradient * direction).clamp(max=0.0)
    start, norm = point.excess, point.gradient_norm
    rounding = _ROUNDING * start
    step = torch.ones_like(start)

    def along(step: Float64[Tensor, "B"]) -> Point:
        return evaluate(point.weight + wide(step) * direction)

    def accepts(trial: Point) -> Mask:
        value = _excess(trial)
        # Near the optimum the decrease drowns in the rounding of g, but not that of its gradient.
        flat = (step == 1) & (value <= start * (1 + 1e-8)) & (trial.gradient_norm <= 0.5 * norm)
        return (value <= start + 1e-4 * step * slope + rounding) | flat

    trial = along(step)
    good = accepts(trial)
    for _ in range(60):
        if good.all():
            break
        step = torch.where(good, step, step / 2)
        trial = along(step)
        good = good | accepts(trial)
    growing = good & expand
    for _ in range(60):
        if not growing.any():
            break
        longer = torch.where(growing, 2 * step, step)
        candidate = along(longer)
        growing = growing & (_excess(candidate) < _excess(trial) - rounding)
        step = torch.where(growing, longer, step)
        trial = candidate if growing.all() else along(step)
    gained = (_excess(trial) < start - rounding) | (trial.gradient_norm < norm)
    return trial, good & gained


def _excess(point: Point) -> Float64[Tensor, "B"]:
    """The excess, infinite where a weight is so large that WWᵀ + cI is no longer definite."""
    return torch.where(point.excess.isfinite(), point.excess, torch.inf)


def realigned(evaluate: Evaluate, point: Point, wanted: Mask) -> Point:
    """The point after the best joint rotation of W and H, where `wanted` and where it gains.

    Only the anchor term of f sees W → WQᵀ, H → QH; it is least at the polar factor of H0Hᵀ. Where β
    is small the optimum lies along a curved valley of such rotations, which Newton's steps follow
    slowly. Q acts on the span of W, WA and WAᵀ, A = HH0ᵀ/N, which keeps this at O(Kd²).
    """
    w = point.layer
    reach = (w, *(point.anchor_overlap(w, transposed=t) for t in (False, True)))
    basis = torch.linalg.qr(torch.cat(reach, dim=-2).mT).Q.mT
    overlap = point.anchor_overlap(basis, transposed=False) @ basis.mT
    u, _, vh = torch.linalg.svd(overlap)
    rotation = (u @ vh).mT
    read = w @ basis.mT
    turned = (read @ rotation.mT - read) @ basis
    others = point.weight.shape[-1] - w.shape[-1]
    trial = evaluate(point.weight + torch.nn.functional.pad(turned, (0, others)))
    better = wanted & (trial.excess < point.excess * (1 - _ROUNDING))
    if better.all():
        return trial
    return (
        evaluate(torch.where(wide(better), trial.weight, point.weight)) if better.any() else point
    )

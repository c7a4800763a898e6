"""Truncated Newton steps on g(W), for many hyper-parameters at once.

Conjugate gradients and a line search on points with one leading batch dimension; the members of a
batch do not see each other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from perturb_nc.moments import Scalar
from perturb_nc.theory.arrays import Rows, Square, total
from perturb_nc.theory.clock import Clock

Mask = Bool[Tensor, "..."]


@runtime_checkable
class Point(Protocol):
    """What is minimised, at a batch of weights (a last layer, and whatever joins it)."""

    @property
    def weight(self) -> Rows:
        """What varies."""

    @property
    def layer(self) -> Rows:
        """Its leading columns: W alone, which turns with the features."""

    @property
    def excess(self) -> Scalar:
        """The objective, less a constant, >= 0."""

    @property
    def gradient(self) -> Rows:
        """Its gradient."""

    @property
    def gradient_norm(self) -> Scalar:
        """Of that, relative to a bound."""

    @property
    def residual_moment(self) -> Square:
        """QQᵀ/N, with Q the gradient of the loss in the logits."""

    @property
    def scale(self) -> str:
        """Sizes to name where float64 does not suffice."""

    def precondition(self, rows: Rows) -> Rows:
        """V through the inverse of the Hessian at fixed H, or what comes near it."""

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """The Hessian along V."""

    def anchor_overlap(self, rows: Rows, *, transposed: bool) -> Rows:
        """Rows times HH0ᵀ/N, or its transpose."""


Evaluate = Callable[[Rows], Point]


@dataclass(frozen=True, eq=False)
class HessianSolve:
    """Result of `solve_hessian`.

    Attributes:
        solution: V, as far as the solve came; a descent direction when right = -∇g.
        negative: the direction of negative curvature that ended the solve, 0 where none did.
        bent: whether one did.
        products: Hessian-vector products taken.
    """

    solution: Rows
    negative: Rows
    bent: Mask
    products: Int64[Tensor, "..."]


def solve_hessian(
    point: Point, right: Rows, relative: Float64[Tensor, "..."] | float, clock: Clock | None = None
) -> HessianSolve:
    """Solve ∇²g[V] = right by conjugate gradients to a relative residual.

    Preconditioned by the Hessian at fixed H, V ↦ V(S_H + (λ_W/K)I), in whose inverse norm the
    residual is measured. A direction of negative curvature ends the solve; if it is the first one,
    it serves as the solution too. NaN where that Hessian is not definite in float64. `right` may
    have one more leading dimension than the points: several right-hand sides at each.
    """
    residual, direction = right, point.precondition(right)
    inner = total(residual * direction)
    solution = negative = torch.where(wide(inner.isnan()), torch.nan, torch.zeros_like(right))
    stiffness = inner  # of `direction` at fixed H, by the recurrence below
    target = relative**2 * inner
    active = inner > 0
    bent, products = torch.zeros_like(active), torch.zeros_like(active, dtype=torch.int64)
    limit = 2 * right.shape[-2] * right.shape[-1] + 10  # twice the exact bound, for rounding
    for _ in range(limit):
        if not active.any() or (clock is not None and clock.expired()):
            break
        product = point.hessian_vector_product(direction)
        products = products + active
        curvature = total(direction * product)
        # Below this a curvature is rounding: flat directions (rotations, at β = 0) end here.
        noise = 1e-12 * stiffness
        flat = active & ~(curvature > noise)
        below = flat & (curvature < -noise)
        if flat.any():
            negative = torch.where(wide(below), direction, negative)
            solution = torch.where(wide(flat & (products == 1)), direction, solution)
        bent, active = bent | below, active & ~flat
        step = torch.where(active, inner / curvature, 0.0)
        solution = torch.addcmul(solution, wide(step), direction)
        residual = torch.addcmul(residual, wide(step), product, value=-1)
        scaled = point.precondition(residual)
        previous, inner = inner, total(residual * scaled)
        active = active & (inner > target)
        ratio = torch.where(active, inner / previous, 0.0)
        direction = torch.addcmul(scaled, wide(ratio), direction)
        stiffness = inner + ratio**2 * stiffness
    return HessianSolve(solution, negative, bent, products)


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


def wide(values: Tensor) -> Tensor:
    """(...) as (..., 1, 1)."""
    return values[..., None, None]

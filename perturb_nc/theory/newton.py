"""Truncated Newton steps on g(W): conjugate gradients and a line search on ReducedPoints."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from perturb_nc.theory.reduced import ReducedPoint, Rows

Evaluate = Callable[[Rows], ReducedPoint]


@dataclass(frozen=True, eq=False)
class HessianSolve:
    """Result of `solve_hessian`.

    Attributes:
        solution: V, as far as the solve came; a descent direction when right = -∇g.
        negative: the direction of negative curvature that ended the solve, if one did.
        products: Hessian-vector products taken.
    """

    solution: Rows
    negative: Rows | None
    products: int


def solve_hessian(point: ReducedPoint, right: Rows, relative: float) -> HessianSolve:
    """Solve ∇²g[V] = right by conjugate gradients to a relative residual.

    Preconditioned by the Hessian at fixed H, V ↦ V(S_H + (λ_W/K)I), in whose inverse norm the
    residual is measured. A direction of negative curvature ends the solve; if it is the first one,
    it serves as the solution too.
    """
    solution, residual = torch.zeros_like(right), right
    direction = point.precondition(residual)
    inner = (residual * direction).sum()
    stiffness = inner  # of `direction` at fixed H, by the recurrence below
    target = relative**2 * inner
    limit = 2 * right.numel() + 10  # twice the exact-arithmetic bound, for rounding
    for used in range(1, limit + 1):
        product = point.hessian_vector_product(direction)
        curvature = (direction * product).sum()
        # Below this a curvature is rounding: flat directions (rotations, at β = 0) end here.
        noise = 1e-12 * stiffness
        if curvature <= noise:
            negative = direction if curvature < -noise else None
            return HessianSolve(solution if used > 1 else direction, negative, used)
        step = inner / curvature
        solution = solution + step * direction
        residual = residual - step * product
        scaled = point.precondition(residual)
        previous, inner = inner, (residual * scaled).sum()
        if inner <= target:
            break
        direction = scaled + (inner / previous) * direction
        stiffness = inner + (inner / previous) ** 2 * stiffness
    return HessianSolve(solution, None, used)


def seek_negative_curvature(point: ReducedPoint) -> HessianSolve:
    """Look for a direction of negative curvature at a stationary point.

    Conjugate gradients on a right-hand side that points where the certificate fails: the top left
    singular vector of E times a random row, which has a part in unused feature dimensions. If the
    Hessian has negative curvature they meet it.
    """
    top = torch.linalg.eigh(point.residual_moment).eigenvectors[:, -1]
    generator = torch.Generator().manual_seed(0)
    row = torch.randn(point.weight.shape[1], generator=generator, dtype=torch.float64)
    return solve_hessian(point, torch.outer(top, row.to(top.device)), 1e-8)


def realigned(evaluate: Evaluate, point: ReducedPoint) -> ReducedPoint | None:
    """The point after the best joint rotation of W and H; None when it gains nothing.

    Only the anchor term of f sees W → WQᵀ, H → QH; it is least at the polar factor of H0Hᵀ. Where β
    is small the optimum lies along a curved valley of such rotations, which Newton's steps follow
    slowly. Q acts on the span of W, WA and WAᵀ, A = HH0ᵀ/N, which keeps this at O(Kd²).
    """
    w = point.weight
    reach = (w, *(point.anchor_overlap(w, transposed=t) for t in (False, True)))
    basis = torch.linalg.qr(torch.cat(reach).mT).Q.mT
    overlap = point.anchor_overlap(basis, transposed=False) @ basis.mT
    u, _, vh = torch.linalg.svd(overlap)
    rotation = (u @ vh).mT
    read = w @ basis.mT
    trial = evaluate(w + (read @ rotation.mT - read) @ basis)
    return trial if trial.excess < point.excess * (1 - _ROUNDING) else None


_ROUNDING = 8 * torch.finfo(torch.float64).eps


def line_search(
    evaluate: Evaluate, point: ReducedPoint, direction: Rows, *, expand: bool
) -> ReducedPoint | None:
    """The next point along a descent direction; None when rounding hides any decrease.

    Halves the step from 1 until g falls enough (Armijo). With `expand` - along negative curvature,
    where no step length is natural - it then doubles the step for as long as g keeps falling.
    """
    slope = (point.gradient * direction).sum().item()
    start = point.excess.item()
    rounding = _ROUNDING * start
    step = 1.0
    for _ in range(60):
        trial = evaluate(point.weight + step * direction)
        value = _excess(trial)
        if value <= start + 1e-4 * step * min(slope, 0.0) + rounding:
            break
        # Near the optimum the decrease drowns in the rounding of g, but not that of its gradient.
        flat = value <= start * (1 + 1e-8)
        if step == 1.0 and flat and trial.gradient_norm <= 0.5 * point.gradient_norm:
            break
        step /= 2
    else:
        return None
    for _ in range(60 if expand else 0):
        step *= 2
        longer = evaluate(point.weight + step * direction)
        if _excess(longer) >= _excess(trial) - rounding:
            break
        trial = longer
    if _excess(trial) >= start - rounding and trial.gradient_norm >= point.gradient_norm:
        return None
    return trial


def _excess(point: ReducedPoint) -> float:
    """The excess, infinite where a weight is so large that WWᵀ + cI is no longer definite."""
    try:
        value = point.excess.item()
    except LinAlgError:
        return math.inf
    return value if math.isfinite(value) else math.inf

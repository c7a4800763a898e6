"""Truncated Newton steps on g(W): conjugate gradients and a line search on ReducedPoints."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

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


def line_search(
    evaluate: Evaluate, point: ReducedPoint, direction: Rows, *, expand: bool
) -> ReducedPoint | None:
    """The next point along a descent direction; None when rounding hides any decrease.

    Halves the step from 1 until g falls enough (Armijo). With `expand` - along negative curvature,
    where no step length is natural - it then doubles the step for as long as g keeps falling.
    """
    slope = (point.gradient * direction).sum().item()
    start = point.objective.item()
    # Near the optimum the decrease drowns in the rounding of g; a full step is then the best one.
    rounding = 8 * torch.finfo(torch.float64).eps * abs(start)
    step = 1.0
    for _ in range(60):
        trial = evaluate(point.weight + step * direction)
        if trial.objective.item() <= start + 1e-4 * step * min(slope, 0.0) + rounding:
            break
        step /= 2
    else:
        return None
    while expand:
        step *= 2
        longer = evaluate(point.weight + step * direction)
        if longer.objective >= trial.objective - rounding:
            break
        trial = longer
    if trial.objective >= start - rounding and trial.gradient_norm >= point.gradient_norm:
        return None
    return trial

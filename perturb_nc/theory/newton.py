"""Truncated Newton steps on g(W), for many hyper-parameters at once.

Conjugate gradients and a line search on points with one leading batch dimension; the members of a
batch do not see each other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.theory.arrays import Rows, total
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.point import Mask, Point, wide


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

"""Truncated Newton steps on g(W), for many hyper-parameters at once.

Conjugate gradients on points with one leading batch dimension; the members of a
batch do not see each other.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.moments import Scalar
from perturb_nc.theory.arrays import Mask, Rows, total
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.point import Quadratic, wide


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
    point: Quadratic,
    right: Rows,
    relative: Float64[Tensor, "..."] | float,
    clock: Clock | None = None,
    most: int | None = None,
) -> HessianSolve:
    """Solve ∇²g[V] = right by conjugate gradients to a relative residual.

    Preconditioned by the Hessian at fixed H, V ↦ V(S_H + (λ_W/K)I), in whose inverse norm the
    residual is measured; by `most` products, where given. A direction of negative curvature ends
    the solve; if it is the first one, it serves as the solution too. NaN where that Hessian is not
    definite in float64. `right` may have one more leading dimension than the points: several
    right-hand sides at each.
    """
    found = _Conjugate.begun(point, right, relative)
    bound = 2 * right.shape[-2] * right.shape[-1] + 10  # twice the exact one, for rounding
    found.iterate(point, bound if most is None else most, clock or Clock())
    return HessianSolve(found.solution, found.negative, found.bent, found.products)


@dataclass(eq=False)
class _Conjugate:
    """Conjugate gradients under way, for members of which some are still active."""

    residual: Rows
    direction: Rows
    inner: Scalar
    stiffness: Scalar  # of `direction` at fixed H, by the recurrence below
    target: Scalar
    solution: Rows
    negative: Rows
    active: Mask
    bent: Mask
    products: Int64[Tensor, "..."]

    @classmethod
    def begun(
        cls, point: Quadratic, right: Rows, relative: Float64[Tensor, "..."] | float
    ) -> "_Conjugate":
        direction = point.precondition(right)
        inner = total(right * direction)
        nothing = torch.where(wide(inner.isnan()), torch.nan, torch.zeros_like(right))
        active, none = inner > 0, torch.zeros_like(inner, dtype=torch.int64)
        target = relative**2 * inner
        return cls(right, direction, inner, inner, target, nothing, nothing, active, none > 0, none)

    def iterate(self, point: Quadratic, limit: int, clock: Clock) -> None:
        """Go on for all that are active; when they are few, without the others."""
        for i in range(limit):
            if not self.active.any() or clock.expired():
                return
            if self.active.ndim == 1 and 2 * int(self.active.sum()) <= len(self.active):
                rows = self.active.nonzero()[:, 0]
                few = _Conjugate(**{name: value[rows] for name, value in vars(self).items()})
                few.iterate(point.members(rows), limit - i, clock)
                for name, value in vars(few).items():
                    setattr(self, name, getattr(self, name).index_copy(0, rows, value))
                return
            self._step(point)

    def _step(self, point: Quadratic) -> None:
        product = point.hessian_vector_product(self.direction)
        self.products = self.products + self.active
        curvature = total(self.direction * product)
        # Below this a curvature is rounding: flat directions (rotations, at β = 0) end here.
        noise = 1e-12 * self.stiffness
        flat = self.active & ~(curvature > noise)
        if flat.any():
            below = flat & (curvature < -noise)
            self.negative = torch.where(wide(below), self.direction, self.negative)
            first = wide(flat & (self.products == 1))
            self.solution = torch.where(first, self.direction, self.solution)
            self.bent, self.active = self.bent | below, self.active & ~flat
        step = wide(torch.where(self.active, self.inner / curvature, 0.0))
        self.solution = torch.addcmul(self.solution, step, self.direction)
        self.residual = torch.addcmul(self.residual, step, product, value=-1)
        scaled = point.precondition(self.residual)
        previous, self.inner = self.inner, total(self.residual * scaled)
        self.active = self.active & (self.inner > self.target)
        ratio = torch.where(self.active, self.inner / previous, 0.0)
        self.direction = torch.addcmul(scaled, wide(ratio), self.direction)
        self.stiffness = self.inner + ratio**2 * self.stiffness

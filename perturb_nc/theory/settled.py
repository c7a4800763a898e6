"""The Hessian where W is nearly stationary, at a third of its cost: for the last digits.

At a stationary point X = EHᵀ/N is -(λ_W/K)W. With that in its place, and Z = UᵀVQ in the singular
vectors of W = UΣQᵀ, where G, P⁻¹ and F are diagonal, γ_i = 1/(σ_i² + c), φ_i = σ_iγ_i,

    ∇²g[Z]_ij = cγ_i (ZS)_ij - (ÊZ)_ij γ_j + (λ_W/K) (Z_ij + (φ_iσ_j + σ_iφ_j) Z_ji),

S = QᵀHHᵀQ/N, Ê = UᵀEEᵀU/N: two products with matrices where the exact one has eight. What is left
out is of the size of the gradient, and so is δM, M the Hessian at fixed H, that is added: along
rotations among features that are nothing in H0 the curvature of g is 0 up to the gradient, and of
either sign. Newton's steps keep their order.
"""

from dataclasses import dataclass, fields
from functools import singledispatch

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.arrays import Factor, Rows, cholesky, total
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.newton import HessianSolve, solve_hessian
from perturb_nc.theory.point import Point
from perturb_nc.theory.reduced import ReducedPoint

_LARGE = 50_000  # K·d from which products, not overheads, take the time
_NEAR = 1e-4  # gradient norm below which W is nearly stationary
_PLAIN = 15  # exact products before: most solves need no more
_DAMPING = 10.0  # δ over the gradient norm


@dataclass(frozen=True, eq=False)
class Settled:
    """The Hessian at nearly stationary points of a batch, in the singular vectors of W.

    Attributes:
        left, right: U and Q, whole.
        values: σ, padded with zeros to K and to d.
        moment, residual_moment: S and Ê.
        stiffness: Cholesky factor of S + (λ_W/K)I.
        c, ridge, damping: λ_H + β, λ_W/K and δ.
    """

    left: Float64[Tensor, "... K K"]
    right: Float64[Tensor, "... d d"]
    values: tuple[Float64[Tensor, "... K 1"], Float64[Tensor, "... 1 d"]]
    moment: Float64[Tensor, "... d d"]
    residual_moment: Float64[Tensor, "... K K"]
    stiffness: Float64[Tensor, "... d d"]
    c: Factor
    ridge: Factor
    damping: Factor

    @classmethod
    def of(cls, point: ReducedPoint, damping: float) -> "Settled":
        """At these points."""
        k, d = point.weight.shape[-2:]
        left, values, right = torch.linalg.svd(point.weight, full_matrices=True)
        right = right.mT
        rows, columns = (torch.nn.functional.pad(values, (0, n - min(k, d))) for n in (k, d))
        moment = right.mT @ point.moment @ right
        stiffness = moment.clone()
        stiffness.diagonal(dim1=-2, dim2=-1).add_(point.ridge[..., 0])
        return cls(
            left,
            right,
            (rows[..., None], columns[..., None, :]),
            0.5 * (moment + moment.mT),
            left.mT @ point.residual_moment @ left,
            cholesky(stiffness),
            point.c,
            point.ridge,
            damping * point.gradient_norm[..., None, None],
        )

    def members(self, rows: int | slice | Tensor) -> "Settled":
        """Some of the points of the batch."""
        a, b = self.values
        own = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "values"}
        return Settled(values=(a[rows], b[rows]), **own)

    @property
    def weight(self) -> Rows:
        """W in these coordinates, Σ."""
        return self.values[0] * torch.eye(
            self.left.shape[-1],
            self.right.shape[-1],
            dtype=self.left.dtype,
            device=self.left.device,
        )

    def inward(self, rows: Rows) -> Rows:
        """V as Z."""
        return self.left.mT @ rows @ self.right

    def outward(self, rows: Rows) -> Rows:
        """Z as V."""
        return self.left @ rows @ self.right.mT

    def precondition(self, rows: Rows) -> Rows:
        """Z(S + (λ_W/K)I)⁻¹."""
        return torch.cholesky_solve(rows.mT, self.stiffness).mT

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """∇²g[Z] + δZ(S + (λ_W/K)I), in the form above."""
        sigma, across = self.values
        gain, inverse = 1 / (sigma.square() + self.c), 1 / (across.square() + self.c)
        curved = (self.c * gain + self.damping) * (direction @ self.moment)
        held = (self.residual_moment @ direction) * inverse
        size = min(direction.shape[-2:])
        s, g = sigma[..., :size, :], gain[..., :size, :]
        swap = self.ridge * s * s.mT * (g + g.mT)
        found = curved - held + (1 + self.damping) * self.ridge * direction
        found[..., :size, :size] += swap * direction[..., :size, :size].mT
        return found


def pays(point: ReducedPoint, near: float) -> bool:
    """Whether points are so large, and their gradients below `near`, that these products pay."""
    k, d = point.weight.shape[-2:]
    many = k * d >= _LARGE and d <= 2 * k  # wide features have products that cost less
    return many and bool((point.gradient_norm <= near).all())


@singledispatch
def newton_direction(
    point: Point, relative: Float64[Tensor, "..."], clock: Clock | None = None
) -> HessianSolve:
    """-∇²g⁻¹∇g by `solve_hessian`, to a relative residual."""
    return solve_hessian(point, -point.gradient, relative, clock)


@newton_direction.register
def _(
    point: ReducedPoint, relative: Float64[Tensor, "..."], clock: Clock | None = None
) -> HessianSolve:
    if point.weight.ndim == 3 and len(point.weight) == 1:  # a matrix takes half a batch's calls
        alone = newton_direction(point.members(0), relative[0], clock)
        return HessianSolve(*(value[None] for value in vars(alone).values()))
    if not pays(point, _NEAR):
        return solve_hessian(point, -point.gradient, relative, clock)
    begun = solve_hessian(point, -point.gradient, relative, clock, most=_PLAIN)
    if bool((begun.bent | (begun.products < _PLAIN)).any()):
        return begun
    rest = -point.gradient - point.hessian_vector_product(begun.solution)
    wanted, left = (total(r * point.precondition(r)).sqrt() for r in (point.gradient, rest))
    settled = Settled.of(point, _DAMPING)
    further = solve_hessian(settled, settled.inward(rest), relative * wanted / left, clock)
    return HessianSolve(
        begun.solution + settled.outward(further.solution),
        settled.outward(further.negative),
        further.bent,
        begun.products + further.products + 1,
    )

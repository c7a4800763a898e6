"""Problem (1) in coordinates where Σ_W0 is diagonal: every evaluation costs O(K²d), none O(d²).

With γ = β/c, Σ_W0 = diag(D) and rows U = [F; WΣ_W0; M] (3K×d),

    S = HHᵀ/N = γ²D + UᵀCU,      C = [[γ²WΣ_W0Wᵀ, -γ²I], [-γ²I, 0]] ⊕ Π,

and X = EHᵀ/N is a combination of the rows of U too. So products with S, with its inverse (Woodbury)
and with the Hessian are K×d work, and no d×d matrix is formed for a setting. Gradient, objective
and covariance are those of `perturb_nc.theory.reduced`, formula by formula.
"""

from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.moments import Scalar
from perturb_nc.theory.arrays import Factor, Mask, Rows, Square, total
from perturb_nc.theory.reduced import ReducedPoint

Coefficients = Float64[Tensor, "... K _"]  # of rows
_CONDITION = 1e9  # up to which Woodbury's formula is trusted
_SPREAD_OUTSIDE = 1e-6  # a share of tr Σ_W0 that may come from a difference


class DiagonalPoint(ReducedPoint):
    """ReducedPoint for a reference whose Σ_W0 is a diagonal matrix (which is not checked)."""

    @property
    def _variances(self) -> Float64[Tensor, "d"]:
        """D."""
        return self.reference.within.diagonal()

    def through_reference(self, rows: Float64[Tensor, "... n d"]) -> Float64[Tensor, "... n d"]:
        """Rows times Σ_W0."""
        return rows * self._variances

    @cached_property
    def _shrunk(self) -> Float64[Tensor, "... 1 d"]:
        """γ²D."""
        return (self.beta / self.c) ** 2 * self._variances

    @cached_property
    def _basis(self) -> Float64[Tensor, "... n d"]:
        """[U; W]."""
        rows = (self.lift, self._reference_rows, self.own_means, self.weight)
        return torch.cat(rows, dim=-2)

    @cached_property
    def _reach(self) -> Float64[Tensor, "... n d"]:
        """U."""
        return self._basis[..., : -self.weight.shape[-2], :]

    @cached_property
    def _core(self) -> Float64[Tensor, "... n n"]:
        """C."""
        k = len(self.reference.priors)
        factor = (self.beta / self.c) ** 2
        core = self.weight.new_zeros(*self.weight.shape[:-2], 3 * k, 3 * k)
        core[..., :k, :k] = factor * self._reference_gram
        for offset in (k, -k):
            core.diagonal(offset, dim1=-2, dim2=-1)[..., :k] = -factor[..., 0]
        core.diagonal(dim1=-2, dim2=-1)[..., 2 * k :] = self.reference.priors
        return core

    @property
    def least_spread(self) -> Factor:
        """γ² min D."""
        used = self._shrunk[..., : self.weight.shape[-1] - self.idle]
        return used.amin(-1, keepdim=True).clamp(min=0.0)

    def through_moment(self, rows: Float64[Tensor, "... n d"]) -> Float64[Tensor, "... n d"]:
        """Rows times S."""
        return rows * self._shrunk + ((rows @ self._reach.mT) @ self._core) @ self._reach

    @cached_property
    def _inverse(self) -> Float64[Tensor, "... 1 d"]:
        """Δ⁻¹, Δ = γ²D + λ_W/K."""
        return 1 / (self._shrunk + self.ridge)

    @cached_property
    def _shift(self) -> Float64[Tensor, "... n d"]:
        """Z = (I + CUΔ⁻¹Uᵀ)⁻¹CUΔ⁻¹, with which (S + (λ_W/K)I)⁻¹ = Δ⁻¹ - (UΔ⁻¹)ᵀZ."""
        scaled = self._reach * self._inverse
        system = self._core @ (scaled @ self._reach.mT)
        system.diagonal(dim1=-2, dim2=-1).add_(1.0)
        shift, _ = torch.linalg.solve_ex(system, self._core)
        return 0.5 * (shift + shift.mT) @ scaled

    def precondition(self, rows: Rows) -> Rows:
        """V(S + (λ_W/K)I)⁻¹."""
        if self._is_delicate:
            return super().precondition(rows)
        scaled = rows * self._inverse
        return scaled - (scaled @ self._reach.mT) @ self._shift

    @property
    def usable(self) -> Mask:
        """Where S + (λ_W/K)I could be inverted."""
        return super().usable if self._is_delicate else self._shift.isfinite().all(-1).all(-1)

    @cached_property
    def _is_delicate(self) -> bool:
        """Whether the condition of S + (λ_W/K)I asks for a factorisation of the matrix itself."""
        size = total(self._weighted_means * self.own_means) + self._shrunk.sum((-2, -1))
        return bool((size > _CONDITION * self.ridge[..., 0, 0]).any())

    @cached_property
    def _overlap_in_reach(self) -> Coefficients:
        """Coefficients of X in U."""
        gain = (self.beta / self.c) ** 2 * self.c * self.gain
        pull = (self.reference.priors[:, None] * self.residuals).mT
        return torch.cat([-gain @ self._reference_gram, gain, pull], dim=-1)

    @cached_property
    def _stiff_core(self) -> Coefficients:
        """cC."""
        return self.c * self._core

    @cached_property
    def _held(self) -> Square:
        """(EEᵀ/N)/c."""
        return self.residual_moment / self.c

    @cached_property
    def _outer(self) -> Coefficients:
        """[cG, (λ_W/K)I - (EEᵀ/N)/c]."""
        own = -self._held
        own.diagonal(dim1=-2, dim2=-1).add_(self.ridge[..., 0])
        return torch.cat([self.c * self.gain, own], dim=-1)

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """∇²g[V] of `ReducedPoint`, with the products of V with the rows of U and W taken once."""
        k, overlap = self.weight.shape[-2], self._overlap_in_reach
        reads = direction @ self._basis.mT
        reached, read = reads[..., :-k], reads[..., -k:]
        inner = self.gain @ (reached @ self._stiff_core - read.mT @ overlap)
        inner[..., :k] -= overlap @ reached.mT - self._held @ read
        outer = self._outer @ torch.cat([direction * self._shrunk, direction], dim=-2)
        return outer + inner @ self._reach

    @cached_property
    def _split(self) -> tuple[Scalar, Square, Square]:
        """tr Σ_W0 off the rows of W, QᵀΣ_W0Q and QᵀP⁻¹Q with an orthonormal basis Q of them."""
        q, triangle = torch.linalg.qr(self.weight.mT)
        inside = q.mT @ (q * self._variances[:, None])
        gram = triangle @ triangle.mT
        gram.diagonal(dim1=-2, dim2=-1).add_(self.c[..., 0])
        outside = self._variances.sum() - inside.diagonal(dim1=-2, dim2=-1).sum(-1)
        root, _ = torch.linalg.cholesky_ex(gram)
        return outside, inside, torch.cholesky_inverse(root)

    def _trace(self, power: int) -> Scalar:
        """β² tr(P⁻ⁿΣ_W0), n = 2 or 3, apart on and off the rows of W."""
        outside, inside, inverse = self._split
        through = torch.linalg.matrix_power(inverse, power)
        c, beta = self.c[..., 0, 0], self.beta[..., 0, 0]
        return beta**2 * (outside / c**power + total(through * inside))

    def _outside_is_sound(self) -> bool:
        return bool((self._split[0] > _SPREAD_OUTSIDE * self._variances.sum()).all())

    @cached_property
    def within_trace(self) -> Scalar:
        """tr Σ_W."""
        return self._trace(2) if self._outside_is_sound() else super().within_trace

    @cached_property
    def shrunk_trace(self) -> Scalar:
        """tr(Σ_WP⁻¹)."""
        return self._trace(3) if self._outside_is_sound() else super().shrunk_trace

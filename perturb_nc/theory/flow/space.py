"""The subspace in which the weights of a central-path flow stay, grown as the flow needs it.

W*(H0) = ΠM0ᵀC⁻¹ with C = S0 + (λ_W/K)I. Along the flow W stays close to the block Krylov space

    span(M0, C⁻¹M0, C⁻²M0, ...)

(shift and invert), which holds W and dW/dt at t = 0 exactly and in which higher derivatives need
one more block each. The flow is projected on it (Galerkin): what is neglected is the residual of
the equation for W*,

    W(S + (λ_W/K)I) - ΠMᵀ = a · Wψ · VᵀΣ_W0(I - VVᵀ),

known at every state for O(Kdm) operations. Where it is too large the space grows.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.moments import trace
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.flow.state import Factor, FlowModel, FlowState, Rows

BLOCKS = 7  # at the start; each divides the residual by some 20 on well-conditioned features
Basis = Float64[Tensor, "... d m"]


@dataclass(frozen=True, eq=False)
class FlowSetting:
    """Features and hyper-parameters, (..., 1, 1) each: what a flow starts from."""

    statistics: ClassStatistics
    lambda_w: Factor
    lambda_h: Factor
    beta: Factor

    @cached_property
    def root(self) -> Float64[Tensor, "... d d"]:
        """Cholesky factor of C."""
        s = self.statistics
        moment = s.second_moment.expand(*self.lambda_w.shape[:-2], -1, -1).clone()
        moment.diagonal(dim1=-2, dim2=-1).add_(self.lambda_w[..., 0] / s.num_classes)
        return torch.linalg.cholesky(moment)

    def all_of_space(self) -> "FlowSpace":
        """V = I."""
        d, like = self.statistics.dim, self.lambda_w
        basis = torch.eye(d, dtype=like.dtype, device=like.device)
        return self.space(basis.expand(*like.shape[:-2], d, d))

    def krylov_space(self) -> "FlowSpace":
        """`BLOCKS` blocks, or all of space where these fill it."""
        if BLOCKS * self.statistics.num_classes >= self.statistics.dim:
            return self.all_of_space()
        means = self.statistics.means.mT.expand(*self.lambda_w.shape[:-2], -1, -1)
        basis = torch.linalg.qr(means).Q
        for _ in range(BLOCKS - 1):
            basis = torch.cat([basis, self.next_block(basis)], dim=-1)
        return self.space(basis)

    def space(self, basis: Basis) -> "FlowSpace":
        """A given V."""
        return FlowSpace(self, basis, self.statistics.within @ basis)

    def next_block(self, basis: Basis) -> Float64[Tensor, "... d K"]:
        """C⁻¹ of the last block, made orthonormal to V."""
        block, root = basis[..., -self.statistics.num_classes :], self.root
        block = torch.linalg.solve_triangular(root, block, upper=False)
        block = torch.linalg.solve_triangular(root.mT, block, upper=True)
        # Once more for what rounding leaves, or for directions that V had already.
        for _ in range(2):
            block = torch.linalg.qr(block - basis @ (basis.mT @ block)).Q
        return block


@dataclass(frozen=True, eq=False)
class FlowSpace:
    """An orthonormal basis V (..., d, m), one for each setting, and the flow in its coordinates.

    Attributes:
        setting: of the flow.
        basis: V.
        image: Σ_W0V.
    """

    setting: FlowSetting
    basis: Basis
    image: Basis

    @property
    def statistics(self) -> ClassStatistics:
        """Of H0."""
        return self.setting.statistics

    def grown(self) -> "FlowSpace":
        """With one more block of columns, or all that are missing."""
        (d, m), k = self.basis.shape[-2:], self.statistics.num_classes
        if m + k < d:
            block = self.setting.next_block(self.basis)
        else:
            block = torch.linalg.qr(self.basis, mode="complete").Q[..., m:]
        return FlowSpace(
            self.setting,
            torch.cat([self.basis, block], dim=-1),
            torch.cat([self.image, self.statistics.within @ block], dim=-1),
        )

    @cached_property
    def model(self) -> FlowModel:
        """The equation in coordinates of V."""
        s, setting = self.statistics, self.setting
        within = self.basis.mT @ self.image
        outside = s.within.trace() - trace(within)
        if self.basis.shape[-1] == s.dim:
            outside = torch.zeros_like(outside)
        return FlowModel(
            s.means @ self.basis,
            within,
            outside,
            s.priors,
            setting.lambda_w,
            setting.lambda_h,
            setting.beta,
        )

    @cached_property
    def _leak(self) -> Float64[Tensor, "... m m"]:
        """Triangular factor of L⁻¹(I - VVᵀ)Σ_W0V, C = LLᵀ."""
        leak = self.image - self.basis @ self.model.within
        solved = torch.linalg.solve_triangular(self.setting.root, leak, upper=False)
        return torch.linalg.qr(solved, mode="r").R

    def neglected(self, state: FlowState, weight: Rows) -> float:
        """Residual of the equation for W* that V cannot hold, in the norm of C⁻¹/a².

        Relative to |W|; the largest of the batch. It bounds the energy norm of the error of W.
        """
        if self.basis.shape[-1] == self.statistics.dim:
            return 0.0
        square = (self._leak @ (weight @ state.propagator).mT).square().sum((-2, -1))
        pull = self.model.priors[:, None] * state.means
        energy = (weight * pull).sum((-2, -1))
        return math.sqrt(float((square / energy).max()))

    def padded(self, state: FlowState) -> FlowState:
        """A state from before the space grew, in these coordinates."""
        return state.padded(self.basis.shape[-1])

    def statistics_at(self, state: FlowState) -> ClassStatistics:
        """Class statistics at a state, of the first setting of a batch."""
        basis = self.basis[0]
        means = state.means[0] @ basis.mT
        return transported(self.statistics, basis, means, state.propagator[0], state.outer[0, 0, 0])


def transported(
    reference: ClassStatistics,
    basis: Float64[Tensor, "d m"],
    means: Float64[Tensor, "K d"],
    propagator: Float64[Tensor, "m m"],
    outer: Float64[Tensor, ""],
) -> ClassStatistics:
    """Statistics with new class means and deviations moved by Ψ = VψVᵀ + a(I - VVᵀ).

    ΨΣ_W0Ψᵀ = a²Σ_W0 + ZVᵀ + VZᵀ with D = ψ - aI and Z = (aΣ_W0V + ½VD VᵀΣ_W0V)Dᵀ; where V is all of
    space, directly, which keeps it positive semidefinite to rounding.
    """
    if len(propagator) == reference.dim:
        psi = basis @ propagator @ basis.mT
        within = psi @ reference.within @ psi.mT
        return reference.moved(means, 0.5 * (within + within.mT))
    change = propagator - outer * torch.diag(propagator.new_ones(len(propagator)))
    image = reference.within @ basis
    half = (outer * image + 0.5 * basis @ (change @ (basis.mT @ image))) @ change.mT @ basis.mT
    return reference.moved(means, outer.square() * reference.within + half + half.mT)

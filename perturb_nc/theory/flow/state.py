"""The central-path flow on class statistics, in coordinates of a subspace that holds all weights.

Every feature h of class k follows, for given W, h' = -(WᵀW + c)h + Wᵀe_k + βh0 with c = λ_H + β.
Class means and within-class deviations are all that W*(H) depends on, and both are moved by the
same maps, whatever N is (docs §4.5). Where the rows of every W(t), and the class means of H0, lie
in the span of an orthonormal V (d×m), deviations follow

    δ(t) = (VψVᵀ + a(I - VVᵀ)) δ(0)

with ψ (m×m) and a number a, so that everything is of size m. `perturb_nc.theory.flow.space` finds
such a V.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.arrays import cholesky

Inner = Float64[Tensor, "... m m"]
Rows = Float64[Tensor, "... K m"]
Factor = Float64[Tensor, "... 1 1"]
NOTHING = 1e-140  # of |H0|: below it features have decayed, and their squares soon underflow


@dataclass(frozen=True, eq=False)
class FlowState:
    """Where the flow is, in the coordinates of a FlowModel.

    Attributes:
        means: class means of H(t), (..., K, m).
        propagator: ψ, (..., m, m).
        outer: a, (..., 1, 1).
    """

    means: Rows
    propagator: Inner
    outer: Factor

    def padded(self, size: int) -> "FlowState":
        """The same state where V has got more columns, `size` in all."""
        extra = size - self.means.shape[-1]
        if not extra:
            return self
        means = torch.nn.functional.pad(self.means, (0, extra))
        propagator = torch.nn.functional.pad(self.propagator, (0, extra, 0, extra))
        propagator.diagonal(dim1=-2, dim2=-1)[..., -extra:] = self.outer[..., 0]
        return FlowState(means, propagator, self.outer)


@dataclass(frozen=True, eq=False)
class FlowModel:
    """The equation in coordinates of V; lambda_w, lambda_h and beta have shape (..., 1, 1).

    Attributes:
        means: M0 V, as rows, (..., K, m).
        within: VᵀΣ_W0V, (..., m, m).
        outside: trace of Σ_W0 outside the span of V, (...).
        priors: π, (K,).
    """

    means: Rows
    within: Inner
    outside: Float64[Tensor, "..."]
    priors: Float64[Tensor, "K"]
    lambda_w: Factor
    lambda_h: Factor
    beta: Factor

    @cached_property
    def c(self) -> Factor:
        """c = λ_H + β."""
        return self.lambda_h + self.beta

    @cached_property
    def anchored(self) -> bool:
        """Whether β > 0 anywhere in the batch."""
        return bool((self.beta > 0).any())

    @cached_property
    def identity(self) -> Float64[Tensor, "m m"]:
        """I_m."""
        return torch.eye(self.means.shape[-1], dtype=self.means.dtype, device=self.means.device)

    def initial_state(self) -> FlowState:
        """H = H0."""
        batch = self.means.shape[:-2]
        return FlowState(
            self.means, self.identity.expand(*batch, -1, -1), torch.ones_like(self.lambda_w)
        )

    def weight(self, state: FlowState) -> Rows:
        """W*(H) = ΠMᵀ(S + (λ_W/K)I)⁻¹; NaN where S is too badly scaled to be factored."""
        pull = self.priors[:, None] * state.means
        moment = state.propagator @ self.within @ state.propagator.mT + state.means.mT @ pull
        moment.diagonal(dim1=-2, dim2=-1).add_(self.lambda_w[..., 0] / len(self.priors))
        return torch.cholesky_solve(pull.mT, cholesky(moment)).mT

    def spread(
        self, propagator: Float64[Tensor, "... p m"], outer: Factor
    ) -> Float64[Tensor, "..."]:
        """|Xδ|²/N of all deviations δ of H0, for X = V·propagator·Vᵀ + outer·(I - VVᵀ)."""
        inside = ((propagator @ self.within) * propagator).sum((-2, -1))
        return inside + outer[..., 0, 0].square() * self.outside

    def square(self, means: Rows) -> Float64[Tensor, "..."]:
        """Σ_k π_k |row_k|²."""
        return (self.priors * means.square().sum(-1)).sum(-1)

    @cached_property
    def start(self) -> Float64[Tensor, "2 ..."]:
        """Root mean squares of the class means and of the deviations of H0."""
        spread = self.spread(self.identity, torch.ones_like(self.lambda_w))
        return torch.stack([self.square(self.means), spread]).sqrt()

    def relaxation(self, time: float) -> tuple[Factor, Factor]:
        """e^{-ct} and β(1 - e^{-ct})/c, which is 0 where β = 0 (and c may be)."""
        if not self.anchored:
            return torch.exp(-self.c * time), torch.zeros_like(self.c)
        rest = torch.expm1(-self.c * time)
        gamma = torch.where(self.c > 0, -self.beta * rest / self.c, 0.0)
        return torch.exp(-self.c * time), gamma

    def speed(self, state: FlowState, weight: Rows) -> Float64[Tensor, "..."]:
        """√(|dH/dt|²/N), relative to √(|H|²/N)."""
        means, propagator = self.rate(state, weight)
        outer = self.beta - self.c * state.outer
        square = self.square(means) + self.spread(propagator, outer)
        size = self.square(state.means) + self.spread(state.propagator, state.outer)
        return (square / size).sqrt()

    def rate(self, state: FlowState, weight: Rows) -> tuple[Rows, Inner]:
        """Time derivatives of the class means and of ψ."""
        errors = state.means @ weight.mT - torch.diag(weight.new_ones(len(self.priors)))
        means = self.beta * self.means - errors @ weight - self.c * state.means
        propagator = -weight.mT @ (weight @ state.propagator) - self.c * state.propagator
        return means, propagator + self.beta * self.identity


def step_error(
    model: FlowModel,
    state: FlowState,
    means: Rows,
    gap: tuple[Rows, Inner],
    rtol: float,
    atol: float,
    *,
    noise: Float64[Tensor, "..."] | None = None,
) -> float:
    """A difference of class means and of ψ over the tolerances, the largest of the batch.

    In root mean squares, relative to the means after the step and to the deviations before it; with
    `noise` the deviations within the span of the means count on their own too, against at least a
    thousandth of all: to a thirtieth of the tolerances, as errors add up while they decay, beyond
    what rounding makes of them, this share of all deviations. What lies outside V moves exactly.
    """
    nothing, start = torch.zeros_like(state.outer), model.start

    def rms(propagator: Tensor, outer: Factor = nothing) -> Tensor:
        """Root mean square of the deviations."""
        return model.spread(propagator, outer).clamp_min(0).sqrt()

    # Of deviations that decay on their own a hundred millionth is resolved.
    spread = rms(state.propagator, state.outer) + 1e-8 * state.outer[..., 0, 0] * start[1]
    size = (model.square(means) + spread.square()).sqrt()
    parts = [(model.square(gap[0]).sqrt(), size), (rms(gap[1]), spread)]
    if noise is not None:
        span = torch.linalg.qr(means.mT).Q.mT
        beyond = (rms(span @ gap[1]) - noise * spread).clamp_min(0)
        parts.append((30 * beyond, rms(span @ state.propagator) + 1e-3 * spread))
    floor = NOTHING * start.sum(0)
    ratios = [change / (atol + rtol * (whole + floor)) for change, whole in parts]
    changes = torch.stack([change for change, _ in parts])
    # Features that are collapsed already have no deviations to get wrong.
    return float(torch.where(changes > 0, torch.stack(ratios), 0.0 * changes).max())

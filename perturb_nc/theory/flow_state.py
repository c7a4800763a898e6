"""The central-path flow on class statistics: its state, its equation, and one step as a map.

Every feature h of class k follows, for given W, h' = -(WᵀW + c)h + Wᵀe_k + βh0 with c = λ_H + β.
Class means and within-class deviations are all that W*(H) depends on, and both are moved by the
same rank-K maps, whatever N is (DESIGN §4.5).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

Matrix = Float64[Tensor, "... d d"]
Rows = Float64[Tensor, "... K d"]


@dataclass(frozen=True, eq=False)
class FlowState:
    """Where the flow is: everything that depends on H, in class statistics.

    Attributes:
        means: class means of H(t), (..., K, d).
        propagator: Ψ (..., d, d) with δ(t) = Ψδ(0) for every within-class deviation.
        within: Σ_W(t) = ΨΣ_W0Ψᵀ.
        cross: ΨΣ_W0, which the anchored flow needs beside it; None at β = 0.
    """

    means: Rows
    propagator: Matrix
    within: Matrix
    cross: Matrix | None


@dataclass(frozen=True, eq=False)
class FlowModel:
    """The equation: reference statistics and hyper-parameters, with leading batch dimensions.

    lambda_w, lambda_h and beta have shape (..., 1, 1).
    """

    reference_means: Float64[Tensor, "K d"]
    reference_within: Float64[Tensor, "d d"]
    priors: Float64[Tensor, "K"]
    lambda_w: Tensor
    lambda_h: Tensor
    beta: Tensor

    @property
    def ridge(self) -> Tensor:
        """λ_W/K."""
        return self.lambda_w / len(self.priors)

    @property
    def anchored(self) -> bool:
        """Whether β > 0 anywhere in the batch."""
        return bool((self.beta > 0).any())

    def initial_state(self) -> FlowState:
        """H = H0."""
        batch = self.lambda_w.shape[:-2]
        means = self.reference_means.expand(*batch, -1, -1)
        within = self.reference_within.expand(*batch, -1, -1)
        identity = torch.eye(means.shape[-1], dtype=means.dtype, device=means.device)
        cross = within if self.anchored else None
        return FlowState(means, identity.expand_as(within), within, cross)

    def speed(self, state: FlowState, weight: Rows) -> Float64[Tensor, "..."]:
        """√(|dH/dt|²/N), relative to √(|H|²/N)."""
        identity = torch.eye(len(self.priors)).to(state.means)
        pull = self.beta * (self.reference_means - state.means)
        errors = state.means @ weight.mT - identity
        square = weighted_square(self.priors, pull - errors @ weight - self.lambda_h * state.means)

        def rate(x: Matrix) -> Matrix:
            return weight.mT @ (weight @ x) + (self.lambda_h + self.beta) * x

        if state.cross is None:
            square = square + trace(rate(rate(state.within).mT))
        else:
            # tr(RΣ_W0Rᵀ) with R = βI - (WᵀW + c)Ψ: both factors vanish where the flow stops.
            still = self.beta * torch.eye(state.means.shape[-1]).to(pull)
            moved = self.beta * self.reference_within - rate(state.cross)
            square = square + (moved * (still - rate(state.propagator))).sum((-2, -1))
        size = weighted_square(self.priors, state.means) + trace(state.within)
        return (square.clamp(min=0.0) / size).sqrt()  # below 0 is rounding


@dataclass(frozen=True, eq=False)
class StepMap:
    """h ↦ Th + Fe_k + Gh0 over one step: T = αI + Q t Qᵀ, F = Q f, G = γI + Q g Qᵀ."""

    basis: Float64[Tensor, "... d q"]
    alpha: Tensor
    gamma: Tensor
    t: Float64[Tensor, "... q q"]
    f: Float64[Tensor, "... q K"]
    g: Float64[Tensor, "... q q"]

    def t_left(self, x: Float64[Tensor, "... d m"]) -> Float64[Tensor, "... d m"]:
        """TX."""
        return self.alpha * x + self.basis @ (self.t @ (self.basis.mT @ x))

    def g_left(self, x: Float64[Tensor, "... d m"]) -> Float64[Tensor, "... d m"]:
        """GX."""
        return self.gamma * x + self.basis @ (self.g @ (self.basis.mT @ x))

    def means(self, model: FlowModel, state: FlowState) -> Rows:
        """Class means after the step."""
        moved = self.t_left(state.means.mT) + self.basis @ self.f
        if model.anchored:
            moved = moved + self.g_left(model.reference_means.mT)
        return moved.mT

    def within(self, model: FlowModel, state: FlowState) -> Matrix:
        """Σ_W after the step: TΣTᵀ + TCGᵀ + GCᵀTᵀ + GΣ_W0Gᵀ, C = ΨΣ_W0."""
        # TΣTᵀ = α²Σ + ZQᵀ + QZᵀ with Z = αΣQtᵀ + ½Q t(QᵀΣQ)tᵀ: one product with Σ.
        image = state.within @ self.basis @ self.t.mT
        core = self.t @ (self.basis.mT @ image)
        half = (self.alpha * image + 0.5 * self.basis @ core) @ self.basis.mT
        moved = self.alpha**2 * state.within + half + half.mT
        if state.cross is None:
            return moved
        mixed = self.t_left(self.g_left(state.cross.mT).mT)
        moved = moved + mixed + mixed.mT
        moved = moved + self.g_left(self.g_left(model.reference_within).mT)
        return 0.5 * (moved + moved.mT)

    def within_product(self, model: FlowModel, state: FlowState, x: Rows) -> Rows:
        """X Σ_W after the step, without forming it."""
        left = self.alpha * x + (x @ self.basis) @ self.t @ self.basis.mT
        if state.cross is None:
            return self.t_left((left @ state.within).mT).mT
        anchor = self.gamma * x + (x @ self.basis) @ self.g @ self.basis.mT
        own = left @ state.within + anchor @ state.cross.mT
        other = left @ state.cross + anchor @ model.reference_within
        return (self.t_left(own.mT) + self.g_left(other.mT)).mT

    def advance(self, model: FlowModel, state: FlowState) -> FlowState:
        """The state after the step."""
        propagator, cross = self.t_left(state.propagator), state.cross
        if cross is not None:
            propagator = propagator + self.g_left(torch.eye(propagator.shape[-1]).to(propagator))
            cross = self.t_left(cross) + self.g_left(model.reference_within)
        return FlowState(self.means(model, state), propagator, self.within(model, state), cross)


class WeightSolver:
    """W*(H) = ΠMᵀ(S + (λ_W/K)I)⁻¹ along a path, one factorisation serving many states.

    Conjugate gradients from a guess, preconditioned by the inverse at an earlier state; when they
    need more than a few iterations, the inverse is taken anew (d³) at the present state.
    """

    LIMIT = 8

    def __init__(self, model: FlowModel, tolerance: float) -> None:
        self._model = model
        self._tolerance = tolerance
        self._inverse: Matrix | None = None
        self.factorisations = 0

    def at(self, state: FlowState) -> Rows:
        """W* at a state, directly; renews the preconditioner."""
        return self._direct(state.means, state.within)

    def after(self, step: StepMap, state: FlowState, guess: Rows) -> Rows:
        """W* at the state after a step, by conjugate gradients from a guess."""
        model = self._model
        means = step.means(model, state)
        right = model.priors[:, None] * means

        def product(x: Rows) -> Rows:
            low_rank = ((x @ means.mT) * model.priors) @ means
            return step.within_product(model, state, x) + low_rank + model.ridge * x

        weight = self._iterate(product, right, guess)
        return weight if weight is not None else self._direct(means, step.within(model, state))

    def _iterate(self, product: Callable[[Rows], Rows], right: Rows, guess: Rows) -> Rows | None:
        if self._inverse is None:
            return None
        weight, residual = guess, right - product(guess)
        scaled = residual @ self._inverse
        inner = (residual * scaled).sum(-1, keepdim=True)
        target = self._tolerance**2 * (right * (right @ self._inverse)).sum(-1, keepdim=True)
        direction = scaled
        for _ in range(self.LIMIT):
            if (inner <= target).all():
                return weight
            image = product(direction)
            curvature = (direction * image).sum(-1, keepdim=True)
            step = torch.where(curvature > 0, inner / curvature, 0.0)  # a row may be done: 0/0
            weight = weight + step * direction
            residual = residual - step * image
            scaled = residual @ self._inverse
            previous, inner = inner, (residual * scaled).sum(-1, keepdim=True)
            direction = scaled + torch.where(previous > 0, inner / previous, 0.0) * direction
        return weight if (inner <= target).all() else None

    def _direct(self, means: Rows, within: Matrix) -> Rows:
        model = self._model
        right = model.priors[:, None] * means
        moment = within + means.mT @ right
        moment = moment + model.ridge * torch.eye(moment.shape[-1]).to(moment)
        root = torch.linalg.cholesky(moment)
        self._inverse = torch.cholesky_inverse(root)
        self.factorisations += 1
        return torch.cholesky_solve(right.mT, root).mT


def weighted_square(priors: Float64[Tensor, "K"], rows: Rows) -> Float64[Tensor, "..."]:
    """Σ_k π_k |row_k|²."""
    return (priors * rows.square().sum(-1)).sum(-1)


def trace(matrix: Float64[Tensor, "... n n"]) -> Float64[Tensor, "..."]:
    """Trace of every matrix of a batch."""
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)

"""Exponential (Magnus) steps of the central-path flow on class means and deviations.

With the weight W(t) given, every feature h of class k follows one linear equation

    h' = -(WᵀW + c)h + Wᵀe_k + βh0,    c = λ_H + β,

a linear equation z' = A(t)z for z = (h, e_k, h0). A step of the method of Casas & Iserles (2006)
for z' = A(z)z multiplies z by the exponential of a combination of A at a few weights and of their
commutators. WᵀW has rank K, so that on the d dimensions of h the exponential is a multiple of I
plus a matrix on the span Q of those weights: O(Kd²) work, and no d×d exponential.

The part of the exponent that acts on h is -(positive semidefinite) + (antisymmetric) - cI: it is a
contraction by e^{-c·step} at least, whatever the step size, so that Σ_W ⪰ 0 and (at β = 0)
e^{2λ_H t} tr Σ_W non-increasing hold by construction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

Matrix = Float64[Tensor, "... d d"]
Rows = Float64[Tensor, "... K d"]
Small = Float64[Tensor, "... p p"]
Exponent = Callable[[Sequence[Small]], Small]


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
        square = _weighted(self.priors, pull - errors @ weight - self.lambda_h * state.means)

        def rate(x: Matrix) -> Matrix:
            return weight.mT @ (weight @ x) + (self.lambda_h + self.beta) * x

        if state.cross is None:
            square = square + _trace(rate(rate(state.within).mT))
        else:
            # tr(RΣ_W0Rᵀ) with R = βI - (WᵀW + c)Ψ: both factors vanish where the flow stops.
            still = self.beta * torch.eye(state.means.shape[-1]).to(pull)
            moved = self.beta * self.reference_within - rate(state.cross)
            square = square + (moved * (still - rate(state.propagator))).sum((-2, -1))
        size = _weighted(self.priors, state.means) + _trace(state.within)
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
        moved = self.t_left(self.t_left(state.within).mT)
        if state.cross is not None:
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


def magnus_step(
    solver: WeightSolver,
    model: FlowModel,
    state: FlowState,
    weight: Rows,
    step: float,
    order: int,
) -> tuple[StepMap, StepMap, Rows]:
    """One step of order 2 or 4 from a state and its weight W*.

    Returns the map of the step, the map of the embedded method one order lower, and the last
    stage's weight (a guess for W* after the step).
    """
    stages, final, embedded = _METHODS[order]
    weights = [weight]
    for exponent, fraction, guess in stages:
        basis = torch.linalg.qr(torch.cat([w.mT for w in weights], dim=-1)).Q
        small = [_generator(model, w, basis, step) for w in weights]
        stage = _exponential(model, basis, exponent(small), fraction * step)
        weights.append(solver.after(stage, state, guess(weights)))
    basis = torch.linalg.qr(torch.cat([w.mT for w in weights], dim=-1)).Q
    small = [_generator(model, w, basis, step) for w in weights]
    maps = (_exponential(model, basis, exponent(small), step) for exponent in (final, embedded))
    return next(maps), next(maps), weights[-1]


def step_error(
    model: FlowModel, state: FlowState, step: StepMap, embedded: StepMap, rtol: float, atol: float
) -> float:
    """Difference of two maps, on means and on deviations (root mean squares), over tolerances."""
    means = step.means(model, state)
    gap = _weighted(model.priors, means - embedded.means(model, state)).sqrt()
    size = (_weighted(model.priors, means) + _trace(state.within)).sqrt()
    basis, change = step.basis, step.t - embedded.t
    spread = _quadratic(change, basis.mT @ (state.within @ basis))
    if state.cross is not None:
        anchor = step.g - embedded.g
        spread = spread + 2 * _trace(anchor @ (basis.mT @ (state.cross.mT @ basis)) @ change.mT)
        spread = spread + _quadratic(anchor, basis.mT @ (model.reference_within @ basis))
    spread = spread.clamp(min=0.0).sqrt()  # below 0 is rounding
    deviations = spread / (atol + rtol * _trace(state.within).sqrt())
    # Features that are collapsed already have no deviations to get wrong.
    deviations = torch.where(spread > 0, deviations, 0.0)
    return float(torch.maximum(gap / (atol + rtol * size), deviations).max())


def _generator(
    model: FlowModel, weight: Rows, basis: Float64[Tensor, "... d q"], step: float
) -> Small:
    """step · A(t) on (Qᵀh, e_k, Qᵀh0); the last block only where the flow is anchored."""
    read = weight @ basis
    q = read.shape[-1]
    identity = torch.eye(q).to(read)
    top = [-(read.mT @ read) - (model.lambda_h + model.beta) * identity, read.mT]
    if model.anchored:
        top.append(model.beta * identity)
    rows = torch.cat(top, dim=-1)
    return step * torch.nn.functional.pad(rows, (0, 0, 0, rows.shape[-1] - q))


def _exponential(
    model: FlowModel, basis: Float64[Tensor, "... d q"], exponent: Small, duration: float
) -> StepMap:
    q, k = basis.shape[-1], len(model.priors)
    small = torch.linalg.matrix_exp(exponent)[..., :q, :]
    c = model.lambda_h + model.beta
    alpha = torch.exp(-c * duration)
    # β(1 - e^{-c·duration})/c, which is 0 where β = 0 (and c may be).
    gamma = torch.where(c > 0, -model.beta * torch.expm1(-c * duration) / c, 0.0)
    identity = torch.eye(q).to(small)
    g = (
        small[..., q + k :] - gamma * identity
        if model.anchored
        else torch.zeros_like(small[..., :q])
    )
    t = small[..., :q] - alpha * identity
    return StepMap(basis, alpha, gamma, t, small[..., q : q + k], g)


def _commutator(a: Small, b: Small) -> Small:
    return a @ b - b @ a


# Casas & Iserles 2006, "Explicit Magnus expansions for nonlinear equations", in terms of
# k_i = step·A(stage i). Order 4: the symmetric part of the last exponent is Simpson's rule
# (k1 + 4 k5 + k6)/6, a convex combination, so that the step contracts.
def _third(k: Sequence[Small]) -> Small:
    q1, q2, q3, q4 = k[0], k[1] - k[0], k[2] - k[1], k[3] - 2 * k[1] + k[0]
    return q1 + q2 + 2 / 3 * q3 + q4 / 6 - _commutator(q1, q2) / 6


def _half(k: Sequence[Small]) -> Small:
    q1, q2, q3, q4 = k[0], k[1] - k[0], k[2] - k[1], k[3] - 2 * k[1] + k[0]
    return q1 / 2 + q2 / 4 + q3 / 3 - q4 / 24 - _commutator(q1, q2) / 48


def _fourth(k: Sequence[Small]) -> Small:
    q1, q2, q3, q5, q6 = k[0], k[1] - k[0], k[2] - k[1], k[4] - k[1], k[5] - 2 * k[1] + k[0]
    return q1 + q2 + 2 / 3 * q5 + q6 / 6 - _commutator(q1, q2 - q3 + q5 + q6 / 2) / 6


def _latest(weights: Sequence[Rows]) -> Rows:
    return weights[-1]


# Each stage: its exponent, its time as a fraction of the step, and a guess for its W*.
_Stages = tuple[tuple[Exponent, float, Callable[[Sequence[Rows]], Rows]], ...]
_METHODS: dict[int, tuple[_Stages, Exponent, Exponent]] = {
    # Exponential midpoint, with the step frozen at its start beside it.
    2: (((lambda k: k[0] / 2, 0.5, _latest),), lambda k: k[1], lambda k: k[0]),
    4: (
        (
            (lambda k: k[0] / 2, 0.5, _latest),
            (lambda k: k[0] / 4 + k[1] / 4, 0.5, _latest),
            (lambda k: k[1], 1.0, lambda w: 2 * w[2] - w[0]),
            (_half, 0.5, lambda w: w[2]),
            (_third, 1.0, lambda w: w[3]),
        ),
        _fourth,
        _third,
    ),
}
ORDERS = tuple(_METHODS)


def _weighted(priors: Float64[Tensor, "K"], rows: Rows) -> Float64[Tensor, "..."]:
    return (priors * rows.square().sum(-1)).sum(-1)


def _trace(matrix: Float64[Tensor, "... n n"]) -> Float64[Tensor, "..."]:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def _quadratic(
    change: Float64[Tensor, "... q q"], gram: Float64[Tensor, "... q q"]
) -> Float64[Tensor, "..."]:
    """tr(change · gram · changeᵀ)."""
    return ((change @ gram) * change).sum((-2, -1))

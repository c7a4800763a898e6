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

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.flow_state import (
    FlowModel,
    FlowState,
    Rows,
    StepMap,
    WeightSolver,
    trace,
    weighted_square,
)

Small = Float64[Tensor, "... p p"]
Exponent = Callable[[Sequence[Small]], Small]


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
    gap = weighted_square(model.priors, means - embedded.means(model, state)).sqrt()
    size = (weighted_square(model.priors, means) + trace(state.within)).sqrt()
    basis, change = step.basis, step.t - embedded.t
    spread = _quadratic(change, basis.mT @ (state.within @ basis))
    if state.cross is not None:
        anchor = step.g - embedded.g
        spread = spread + 2 * trace(anchor @ (basis.mT @ (state.cross.mT @ basis)) @ change.mT)
        spread = spread + _quadratic(anchor, basis.mT @ (model.reference_within @ basis))
    spread = spread.clamp(min=0.0).sqrt()  # below 0 is rounding
    deviations = spread / (atol + rtol * trace(state.within).sqrt())
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


def _quadratic(
    change: Float64[Tensor, "... q q"], gram: Float64[Tensor, "... q q"]
) -> Float64[Tensor, "..."]:
    """tr(change · gram · changeᵀ)."""
    return ((change @ gram) * change).sum((-2, -1))

"""Exponential (Magnus) steps of the central-path flow on class means and deviations.

With the weight W(t) given, every feature h of class k follows one linear equation

    h' = -(WᵀW + c)h + Wᵀe_k + βh0,    c = λ_H + β,

a linear equation z' = A(t)z for z = (h, e_k, h0). A step of the method of Casas & Iserles (2006)
for z' = A(z)z multiplies z by the exponential of a combination of A at a few weights and of their
commutators. WᵀW has rank K, so that on h the exponential is a multiple of I plus a matrix on the
span Q of those weights.

The part of the exponent that acts on h is -(positive semidefinite) + (antisymmetric) - cI: it is a
contraction by e^{-c·step} at least, whatever the step size, so that Σ_W ⪰ 0 and (at β = 0)
e^{2λ_H t} tr Σ_W non-increasing hold by construction.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.flow_state import FlowModel, FlowState, Rows

Generator = Float64[Tensor, "... p p"]
Generators = Float64[Tensor, "s ... p p"]
Exponent = Callable[[Generators], Generator]


def magnus_step(
    model: FlowModel, state: FlowState, weight: Rows, step: float, order: int
) -> tuple[FlowState, FlowState]:
    """One step of order 2 or 4 from a state and its weight W*.

    Returns the state after the step, and that of the embedded method one order lower.
    """
    stages, final = _METHODS[order]
    weights, embedded = [weight], state
    for exponent, fraction in stages:
        embedded = _moved(model, state, weights, exponent, step, fraction)
        weights.append(model.weight(embedded))
    if order == 2:
        embedded = _moved(model, state, weights[:1], lambda k: k[0], step, 1.0)
    return _moved(model, state, weights, final, step, 1.0), embedded


def step_error(
    model: FlowModel, state: FlowState, new: FlowState, other: FlowState, rtol: float, atol: float
) -> float:
    """Difference of two states, on means and on deviations (root mean squares), over tolerances."""
    spread = model.spread(state.propagator, state.outer)
    size = (model.square(new.means) + spread).sqrt()
    gap = model.square(new.means - other.means).sqrt()
    nothing = torch.zeros_like(state.outer)  # what lies outside moves exactly
    change = model.spread(new.propagator - other.propagator, nothing).sqrt()
    deviations = change / (atol + rtol * spread.sqrt())
    # Features that are collapsed already have no deviations to get wrong.
    deviations = torch.where(change > 0, deviations, 0.0)
    return float(torch.maximum(gap / (atol + rtol * size), deviations).max())


def _moved(
    model: FlowModel,
    state: FlowState,
    weights: Sequence[Rows],
    exponent: Exponent,
    step: float,
    fraction: float,
) -> FlowState:
    """The state after exp(exponent of the weights' generators), `fraction` of a step later.

    On features that is αI plus a map of the span Q of the weights, of rank K times their number.
    """
    basis = torch.linalg.qr(torch.cat([w.mT for w in weights], dim=-1)).Q
    k, q = len(model.priors), basis.shape[-1]
    generators = _generators(model, torch.stack(tuple(weights)) @ basis, step)
    small = torch.linalg.matrix_exp(exponent(generators))
    alpha = torch.exp(-model.c * fraction * step)
    identity = torch.eye(q).to(basis)
    change, forcing = small[..., :q, :q] - alpha * identity, small[..., :q, q : q + k]
    means = (state.means @ basis) @ change.mT + forcing.mT
    propagator = change @ (basis.mT @ state.propagator)
    outer = alpha * state.outer
    if not model.anchored:
        means, propagator = alpha * state.means + means @ basis.mT, basis @ propagator
        return FlowState(means, alpha * state.propagator + propagator, outer)
    # β(1 - e^{-c·duration})/c, which is 0 where β = 0 (and c may be).
    rest = torch.expm1(-model.c * fraction * step)
    gamma = torch.where(model.c > 0, -model.beta * rest / model.c, 0.0)
    anchor = small[..., :q, q + k :] - gamma * identity
    means = means + (model.means @ basis) @ anchor.mT
    means = alpha * state.means + gamma * model.means + means @ basis.mT
    propagator = (
        alpha * state.propagator + gamma * model.identity + basis @ (propagator + anchor @ basis.mT)
    )
    return FlowState(means, propagator, outer + gamma)


def _generators(model: FlowModel, weights: Float64[Tensor, "s ... K q"], step: float) -> Generators:
    """step · A on (Qᵀh, e_k, Qᵀh0) at s weights; the last block only where the flow is anchored."""
    k, q = weights.shape[-2:]
    size = q + k + (q if model.anchored else 0)
    found = weights.new_zeros(*weights.shape[:-2], size, size)
    found[..., :q, :q] = weights.mT @ (-step * weights)
    found.diagonal(dim1=-2, dim2=-1)[..., :q] -= step * model.c[..., 0]
    found[..., :q, q : q + k] = step * weights.mT
    if model.anchored:
        found.diagonal(q + k, dim1=-2, dim2=-1)[:] = step * model.beta[..., 0]
    return found


def _commutator(a: Generator, b: Generator) -> Generator:
    return a @ b - b @ a


# Casas & Iserles 2006, "Explicit Magnus expansions for nonlinear equations", in terms of
# k_i = step·A(stage i). Order 4: the symmetric part of the last exponent is Simpson's rule
# (k1 + 4 k5 + k6)/6, a convex combination, so that the step contracts.
def _third(k: Generators) -> Generator:
    q1, q2, q3, q4 = k[0], k[1] - k[0], k[2] - k[1], k[3] - 2 * k[1] + k[0]
    return q1 + q2 + 2 / 3 * q3 + q4 / 6 - _commutator(q1, q2) / 6


def _half(k: Generators) -> Generator:
    q1, q2, q3, q4 = k[0], k[1] - k[0], k[2] - k[1], k[3] - 2 * k[1] + k[0]
    return q1 / 2 + q2 / 4 + q3 / 3 - q4 / 24 - _commutator(q1, q2) / 48


def _fourth(k: Generators) -> Generator:
    q1, q2, q3, q5, q6 = k[0], k[1] - k[0], k[2] - k[1], k[4] - k[1], k[5] - 2 * k[1] + k[0]
    return q1 + q2 + 2 / 3 * q5 + q6 / 6 - _commutator(q1, q2 - q3 + q5 + q6 / 2) / 6


# Each stage: its exponent and its time as a fraction of the step; then the exponent of the step.
# The last stage of order 4 is a step of order 3.
_METHODS: dict[int, tuple[tuple[tuple[Exponent, float], ...], Exponent]] = {
    # Exponential midpoint.
    2: (((lambda k: k[0] / 2, 0.5),), lambda k: k[1]),
    4: (
        (
            (lambda k: k[0] / 2, 0.5),
            (lambda k: k[0] / 4 + k[1] / 4, 0.5),
            (lambda k: k[1], 1.0),
            (_half, 0.5),
            (_third, 1.0),
        ),
        _fourth,
    ),
}
ORDERS = tuple(_METHODS)

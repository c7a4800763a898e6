"""Exponential (Magnus) steps of the central-path flow on class means and deviations.

With the weight W(t) given, every feature h of class k follows one linear equation

    h' = -(WᵀW + c)h + Wᵀe_k + βh0,    c = λ_H + β,

a linear equation z' = A(t)z for z = (h, e_k, h0). A step of a Runge-Kutta-Munthe-Kaas method for
z' = A(z)z multiplies z by the exponential of a combination of A at a few weights and of their
commutators. WᵀW has rank K, so that on h the exponential is a multiple of I plus a matrix on the
span Q of those weights.

The part of the exponent that acts on h is -(positive semidefinite) + (antisymmetric) - cI: it is a
contraction by e^{-c·step} at least, whatever the step size, so that Σ_W ⪰ 0 and (at β = 0)
e^{2λ_H t} tr Σ_W non-increasing hold by construction.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.flow.state import FlowModel, FlowState, Rows

Generator = Float64[Tensor, "... p p"]
Generators = Float64[Tensor, "s ... p p"]


@dataclass(frozen=True)
class Exponent:
    """A combination of k_i = step·A(W_i).

    Attributes:
        uses: which i it needs, in order.
        of: the combination of these; of one alone `fraction` times it.
        fraction: of the step that it goes.
    """

    uses: tuple[int, ...]
    of: Callable[[Generators], Generator]
    fraction: float = 1.0


@dataclass(frozen=True)
class Method:
    """Exponents that lead to W_1, W_2, …; of the step; and, with its W too, of the embedded method.

    In `final` and `embedded` the k_i have convex weights, so that both contract.
    """

    stages: tuple[Exponent, ...]
    final: Exponent
    embedded: Exponent


def magnus_step(
    model: FlowModel, state: FlowState, weight: Rows, step: float, order: int
) -> tuple[FlowState, Rows, FlowState]:
    """One step of order 2 or 4 from a state and its weight W*.

    Returns the state after the step with its W*, and that of the embedded method of lower order.
    """
    method, weights = METHODS[order], [weight]
    for stage in method.stages:
        weights.append(model.weight(_moved(model, state, weights, stage, step)))
    new = _moved(model, state, weights, method.final, step)
    weights.append(model.weight(new))
    return new, weights[-1], _moved(model, state, weights, method.embedded, step)


def _moved(
    model: FlowModel,
    state: FlowState,
    weights: Sequence[Rows],
    exponent: Exponent,
    step: float,
) -> FlowState:
    """The state after the exponential of an exponent.

    On features that is αI plus a map of the span Q of the weights, of rank K times their number.
    """
    used = [weights[i] for i in exponent.uses]
    if len(used) == 1 and not model.anchored:
        return _held(model, state, used[0], exponent.fraction * step)
    k, m = weights[0].shape[-2:]
    if len(used) * k < m:
        basis = torch.linalg.qr(torch.cat([w.mT for w in used], dim=-1)).Q
    else:
        basis = model.identity
    q = basis.shape[-1]
    generators = _generators(model, torch.stack(used) @ basis, step)
    small = torch.linalg.matrix_exp(exponent.of(generators))
    alpha, gamma = model.relaxation(exponent.fraction * step)
    change, forcing = small[..., :q, :q].clone(), small[..., :q, q : q + k]
    change.diagonal(dim1=-2, dim2=-1).sub_(alpha[..., 0])
    means = (state.means @ basis) @ change.mT + forcing.mT
    propagator = change @ (basis.mT @ state.propagator)
    outer = alpha * state.outer
    if not model.anchored:
        means, propagator = alpha * state.means + means @ basis.mT, basis @ propagator
        return FlowState(means, alpha * state.propagator + propagator, outer)
    anchor = small[..., :q, q + k :].clone()
    anchor.diagonal(dim1=-2, dim2=-1).sub_(gamma[..., 0])
    means = means + (model.means @ basis) @ anchor.mT
    means = alpha * state.means + gamma * model.means + means @ basis.mT
    propagator = (
        alpha * state.propagator + gamma * model.identity + basis @ (propagator + anchor @ basis.mT)
    )
    return FlowState(means, propagator, outer + gamma)


def _held(model: FlowModel, state: FlowState, weight: Rows, time: float) -> FlowState:
    """The state after a time with W held, where β = 0: functions of the K×K matrix WWᵀ alone.

    Features are multiplied by e^{-t(WᵀW + c)} = e^{-ct}(I - Wᵀ(1 - e^{-tWWᵀ})(WWᵀ)⁻¹W), and
    Wᵀ(1 - e^{-t(WWᵀ + c)})(WWᵀ + c)⁻¹e_k is added to those of class k.
    """
    values, vectors = torch.linalg.eigh(weight @ weight.mT)
    values = values.clamp(min=0.0)[..., None, :]  # of a Gram matrix: below 0 is rounding
    alpha = torch.exp(-model.c * time)

    def integral(rate: Tensor) -> Tensor:
        """∫ e^{-rate·t} dt, and from it a function of WWᵀ."""
        whole = torch.where(rate > 0, -torch.expm1(-rate * time) / rate, time)
        return (vectors * whole) @ vectors.mT

    taken, given = alpha * integral(values), integral(values + model.c)
    means = alpha * state.means + (given - (state.means @ weight.mT) @ taken) @ weight
    propagator = alpha * state.propagator - weight.mT @ (taken @ (weight @ state.propagator))
    return FlowState(means, propagator, alpha * state.outer)


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


def _simpson(k: Generators) -> Generator:
    return (k[0] + 2 * (k[1] + k[2]) + k[3] - _commutator(k[0], k[3]) / 2) / 6


METHODS = {
    2: Method(  # the exponential midpoint rule, with the exponential Euler method
        stages=(Exponent((0,), lambda k: k[0] / 2, 0.5),),
        final=Exponent((1,), lambda k: k[0]),
        embedded=Exponent((0,), lambda k: k[0]),
    ),
    # The classical Runge-Kutta method on the Lie algebra with two commutators (Munthe-Kaas & Owren
    # 1999, "Computations in a free Lie algebra"). With the W of the new state in place of the
    # last stage's it is of order 3.
    4: Method(
        stages=(
            Exponent((0,), lambda k: k[0] / 2, 0.5),
            Exponent((0, 1), lambda k: k[1] / 2 - _commutator(k[0], k[1]) / 8, 0.5),
            Exponent((2,), lambda k: k[0]),
        ),
        final=Exponent((0, 1, 2, 3), _simpson),
        embedded=Exponent((0, 1, 2, 4), _simpson),
    ),
}

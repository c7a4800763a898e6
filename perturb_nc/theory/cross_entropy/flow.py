"""The central-path flow with cross-entropy, on the samples themselves.

    h_i' = ω_i Wᵀ(t_i - p_i) - λ_H h_i + β(h0_i - h_i),     (W, b) the ridge regression on H(t):

the gradient flow of N L(H), L(H) = min_{W,b} f. A stage of a diagonally implicit Runge-Kutta
method,

    H_s = H_r + γτ F(H_s),     minimises the model itself with H_r for H0 and 1/(γτ) for β,

so that every stage is an optimum, found by the same Newton method from the last one, whatever the
rates are. The method is Alexander's of order 2 (γ = 1 - 1/√2, L-stable, stiffly accurate), with an
error estimate of order 1 from the implicit Euler method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.arrays import Rows
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint, Samples, WarmStart
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.descent import descend
from perturb_nc.theory.status import Status
from perturb_nc.validation import nonnegative, positive

_GAMMA = 1 - 1 / math.sqrt(2)
_STAGE_TOL = 1e-11  # relative gradient norm of a stage
_SMALLEST = 1e-14  # of the last time


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropyFlow(Summarised):
    """The flow at the times asked for.

    Attributes:
        problem: whose H0, λ_W and λ_H the flow has; its β is not used.
        times: (T,), those reached.
        features: H(t), (T, N, d).
        weight, bias: ridge regression on H(t), (T, K, d) and (T, K); None without bias.
        value: L(H(t)), (T,), at β = 0; it never rises along the exact flow.
        steps, rejected: of the integrator.
        status: how it ended.
    """

    problem: CrossEntropyProblem
    times: Float64[Tensor, "T"]
    features: Float64[Tensor, "T N d"]
    weight: Float64[Tensor, "T K d"]
    bias: Float64[Tensor, "T K"] | None
    value: Float64[Tensor, "T"]
    steps: int
    rejected: int
    status: Status

    def statistics(self, i: int) -> ClassStatistics:
        """Class statistics of H(times[i])."""
        return ClassStatistics.from_features(self.features[i], self.problem.labels)


def cross_entropy_flow(
    problem: CrossEntropyProblem,
    *,
    times: Sequence[float],
    beta: float = 0.0,
    rtol: float = 1e-4,
    atol: float = 1e-8,
    max_steps: int = 10_000,
) -> CrossEntropyFlow:
    """The flow from the reference features of a problem, with its λ_W and λ_H.

    Args:
        problem: gives H0, labels, λ_W, λ_H, the bias and the targets.
        times: increasing, from 0 on.
        beta: β >= 0 of an anchor to H0, apart from that of the problem.
        rtol, atol: tolerance of a step, for the root mean square of H.
        max_steps: tried at most.

    Raises:
        ValueError: times that do not increase; parameters out of range.

    Source: Tirer et al. 2023, Theorem 3.1, for the flow; Alexander 1977 for the method.
    """
    wanted = [nonnegative(t, "times") for t in times]
    if not wanted or any(b <= a for a, b in pairwise(wanted)):
        raise ValueError(f"times must increase from 0 on, got {list(times)[:5]}")
    rtol, atol, beta = positive(rtol, "rtol"), positive(atol, "atol"), nonnegative(beta, "beta")
    walk = _Walk(problem, beta)
    h, t, step, tried = walk.start, 0.0, 1e-3 * max(wanted[-1], 1e-12), 0
    kept, status, rejected = [], Status.FINISHED, 0
    for end in wanted:
        while t < end and status is Status.FINISHED:
            if tried == max_steps or step < _SMALLEST * wanted[-1]:
                status = Status.MAX_STEPS if tried == max_steps else Status.STEP_TOO_SMALL
                break
            tried, length = tried + 1, min(step, end - t)
            trial, coarse = walk.step(h, length)
            size = atol + rtol * trial.square().mean().sqrt()
            error = ((trial - coarse).square().mean().sqrt() / size).item()
            if error <= 1:
                h, t = trial, end if length == end - t else t + length
            else:
                rejected += 1
            step = length * min(5.0, max(0.2, 0.9 / math.sqrt(max(error, 1e-10))))
        if status is not Status.FINISHED:
            break
        kept.append((end, h, *walk.regression(h)))
    return CrossEntropyFlow(
        problem=problem,
        times=h.new_tensor([time for time, *_ in kept]),
        features=torch.stack([own for _, own, *_ in kept]),
        weight=torch.stack([w for _, _, w, _, _ in kept]),
        bias=torch.stack([b for *_, b, _ in kept]) if problem.bias else None,
        value=h.new_tensor([value for *_, value in kept]),
        steps=tried - rejected,
        rejected=rejected,
        status=status,
    )


class _Walk:
    """Steps of the flow; each stage starts from the weight and residuals of the one before."""

    def __init__(self, problem: CrossEntropyProblem, beta: float) -> None:
        self._problem, self._beta = problem, beta
        self.start = problem.samples.features + problem.shift
        self._weight: Rows = self.start.new_zeros(
            1, problem.num_classes, len(problem.samples.penalties)
        )

    def step(
        self, h: Float64[Tensor, "N d"], length: float
    ) -> tuple[Float64[Tensor, "N d"], Float64[Tensor, "N d"]]:
        """H a step later, and the estimate of lower order that it is compared with."""
        first = self._implicit(h, _GAMMA * length)
        slope = (first - h) / (_GAMMA * length)
        second = self._implicit(h + (1 - _GAMMA) * length * slope, _GAMMA * length)
        # second = h + τ((1-γ)F₁ + γF₂); the Euler step with F₂ alone differs by (1-γ)τ(F₂ - F₁).
        later = (second - h - (1 - _GAMMA) * length * slope) / _GAMMA
        return second, h + later

    def _implicit(self, base: Float64[Tensor, "N d"], length: float) -> Float64[Tensor, "N d"]:
        """H = base + length F(H): the optimum of the model with base for H0 and 1/length for β."""
        reach = 1 / length + self._beta
        anchor = (base / length + self._beta * self.start) / reach
        c = self._problem.lambda_h + reach
        point = self._solved(anchor, reach / c, 1 / c)
        s, shift = point.samples, self._shift(anchor)
        return s.gamma * (s.features + shift) - s.kappa * (point.state.residuals @ point.last_layer)

    def regression(
        self, h: Float64[Tensor, "N d"]
    ) -> tuple[Float64[Tensor, "K d"], Float64[Tensor, "K"], float]:
        """W, b on H, and L(H) at β = 0."""
        point = self._solved(h, 1.0, 0.0)
        bias = point.bias - point.last_layer @ self._shift(h)
        size = h.square().sum().item() / len(h)
        return point.last_layer, bias, point.excess.item() + 0.5 * self._problem.lambda_h * size

    def _shift(self, h: Float64[Tensor, "N d"]) -> Float64[Tensor, "d"]:
        free = self._problem.bias and not self._problem.bias_decay
        return h.mean(0) if free else torch.zeros_like(h[0])

    def _solved(
        self, anchor: Float64[Tensor, "N d"], gamma: float, kappa: float
    ) -> CrossEntropyPoint:
        x, own = anchor - self._shift(anchor), self._problem.samples
        samples = Samples(x, own.targets, gamma, kappa, own.penalties, x.mT @ x / len(x))
        evaluate = WarmStart(CrossEntropyPoint(samples, self._weight))
        found = descend(lambda _: evaluate, self._weight, _STAGE_TOL, 100)
        self._weight = found.weight
        return evaluate(found.weight)

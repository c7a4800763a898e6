"""The flow with cross-entropy closed on class statistics: first order in the spread of a class.

With the mean μ_k and the covariance Σ_k of every class, z_k = Wμ_k + b, Θ_k = WΣ_kWᵀ, and S_k, T_k
the second and third cumulants of p at z_k,

    q̄_k = ω_k(p_k - t_k + ½T_k[Θ_k]),             A_k = ω_kWᵀS_kW + λ_H,
    μ_k' = -Wᵀq̄_k - λ_Hμ_k,                       Σ_k' = -A_kΣ_k - Σ_kA_k,
    0 = Σ π_k(q̄_kμ_kᵀ + ω_kS_kWΣ_k) + (λ_W/K)W,    0 = Σ π_kq̄_k   (b free),

the gradient flow of F, the loss to first order in Σ_k: Σ π_kω_k(CE(z_k, t_k) + ½tr S_kΘ_k) and the
penalties. Nothing depends on the number of samples: a product with the Hessian in W costs O(K²d²).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.arrays import Rows, cholesky
from perturb_nc.theory.cross_entropy.elimination import Targets
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.status import Status
from perturb_nc.validation import nonnegative, positive

_NEWTON = 100  # steps of a regression
_SMALLEST = 1e-12  # step, of the last time
_STATIONARY = 1e-4  # relative gradient norm of a regression, of rtol


class Spread(NamedTuple):
    """Means (K, d) and covariances (K, d, d) of the classes, or their slopes."""

    means: Float64[Tensor, "K d"]
    covariances: Float64[Tensor, "K d d"]

    def moved(self, *parts: tuple[float, "Spread"]) -> "Spread":
        """With multiples of others added."""
        means = self.means + sum(length * own.means for length, own in parts)
        return Spread(means, self.covariances + sum(n * own.covariances for n, own in parts))


@dataclass(frozen=True, eq=False, repr=False)
class ClosedFlow(Summarised):
    """Class statistics along the closure, at the times asked for.

    Attributes:
        times: (T,), those reached.
        statistics: at each of them.
        weight, bias: the ridge regression on them, (T, K, d) and (T, K); b is 0 without bias.
        value: F, (T,), which never rises.
        steps: of the integrator, rejected ones too.
        status: how it ended.
    """

    times: Float64[Tensor, "T"]
    statistics: tuple[ClassStatistics, ...]
    weight: Float64[Tensor, "T K d"]
    bias: Float64[Tensor, "T K"]
    value: Float64[Tensor, "T"]
    steps: int
    status: Status

    def _summary(self) -> dict[str, object]:
        last = {"time": self.times[-1].item()} if len(self.times) else {}
        return {**last, "times": len(self.times), "steps": self.steps, "status": self.status}


def cross_entropy_closure(
    problem: CrossEntropyProblem,
    *,
    times: Sequence[float],
    rtol: float = 1e-4,
    max_steps: int = 10_000,
) -> ClosedFlow:
    """`cross_entropy_flow` on class statistics alone, to first order in the class covariances.

    The error is of second order in Σ_k, and of third moments of the deviations where they are
    skewed: see docs/cross_entropy.md for its size on layers of networks.

    Args:
        problem: gives class means and covariances, λ_W, λ_H, the bias and the targets; its β is
            not used.
        times: increasing, from 0 on.
        rtol: tolerance of a step, relative to the norms of means and of covariances.
        max_steps: tried at most.

    Raises:
        ValueError: times that do not increase; parameters out of range.

    Source: docs §4.9; Bogacki & Shampine 1989 for the integrator.
    """
    wanted = [nonnegative(t, "times") for t in times]
    if not wanted or any(b <= a for a, b in pairwise(wanted)):
        raise ValueError(f"times must increase from 0 on, got {list(times)[:5]}")
    walk = _Closure(problem, positive(rtol, "rtol"))
    state, slope, t, step, steps = walk.start, walk.slope(walk.start), 0.0, 1e-3 * wanted[-1], 0
    kept, status = [], Status.FINISHED
    for end in wanted:
        while t < end:
            if steps == max_steps or step < _SMALLEST * wanted[-1]:
                status = Status.MAX_STEPS if steps == max_steps else Status.STEP_TOO_SMALL
                break
            steps, length = steps + 1, min(step, end - t)
            trial, last, error = walk.step(state, slope, length)
            if error <= 1:
                state, slope, t = trial, last, end if length == end - t else t + length
            step = length * min(5.0, max(0.2, 0.9 * max(error, 1e-10) ** (-1 / 3)))
        if status is not Status.FINISHED:
            break
        kept.append((end, *walk.outcome(state)))
    like = walk.start.means
    return ClosedFlow(
        times=like.new_tensor([end for end, *_ in kept]),
        statistics=tuple(own for _, own, *_ in kept),
        weight=torch.stack([w for _, _, w, _, _ in kept])
        if kept
        else like.new_empty(0, *like.shape),
        bias=torch.stack([b for *_, b, _ in kept]) if kept else like.new_empty(0, len(like)),
        value=like.new_tensor([value for *_, value in kept]),
        steps=steps,
        status=status,
    )


class _Closure:
    """Slopes of the closure; each regression starts from the one before."""

    def __init__(self, problem: CrossEntropyProblem, rtol: float) -> None:
        reference, penalties = problem.statistics, problem.samples.penalties
        self._rtol, self._decay, self._counts = rtol, problem.lambda_h, reference.counts
        classes = torch.arange(problem.num_classes, device=reference.means.device)
        deviations = problem.features - reference.means[problem.labels]
        own = [deviations[problem.labels == k] for k in classes.tolist()]
        self.start = Spread(reference.means, torch.stack([x.mT @ x / len(x) for x in own]))
        nothing = penalties.new_zeros(1, len(classes), len(penalties))
        targets = problem.targets(classes)
        self._point = ClosedPoint(self.start, targets, reference.priors, penalties, nothing)

    def step(self, state: Spread, slope: Spread, length: float) -> tuple[Spread, Spread, float]:
        """The state a step later, its slope, and the error in units of the tolerance."""
        second = self.slope(state.moved((0.5 * length, slope)))
        third = self.slope(state.moved((0.75 * length, second)))
        stages = (slope, second, third)
        weights = [length * w for w in (2 / 9, 1 / 3, 4 / 9)]
        trial = state.moved(*zip(weights, stages, strict=True))
        last = self.slope(trial)
        zero = Spread(*(torch.zeros_like(part) for part in trial))
        lower = [length * w for w in (-5 / 72, 1 / 12, 1 / 9, -1 / 8)]
        off = zero.moved(*zip(lower, (*stages, last), strict=True))
        errors = [
            (a.norm() / (self._rtol * b.norm())).item()
            for a, b in zip(off, trial, strict=True)
            if b.any()
        ]
        return trial, last, max(errors)

    def regression(self, state: Spread) -> "ClosedPoint":
        """(W, b) by Newton's method, from where the last one ended."""
        point = replace(self._point, state=state)
        for _ in range(_NEWTON):
            norm = point.gradient_norm.item()
            if norm <= _STATIONARY * self._rtol:
                break
            move = solve_hessian(point, -point.gradient, max(min(0.1, norm), 1e-8)).solution
            length, trial = 1.0, replace(point, weight=point.weight + move)
            while trial.value > point.value * (1 + 1e-14) and length > 1e-6:
                length /= 4
                trial = replace(point, weight=point.weight + length * move)
            if length <= 1e-6:
                break
            point = trial
        self._point = point
        return point

    def slope(self, state: Spread) -> Spread:
        """(μ', Σ')."""
        point, decay = self.regression(state), self._decay
        pull = point.layer.mT @ (point.curvature @ (point.layer @ state.covariances))
        means = -(point.residuals @ point.layer) - decay * state.means
        return Spread(means, -(pull + pull.mT) - 2 * decay * state.covariances)

    def outcome(self, state: Spread) -> tuple[ClassStatistics, Tensor, Tensor, float]:
        """Class statistics, W, b and F."""
        point, priors = self.regression(state), self._point.priors
        traces = state.covariances.diagonal(dim1=1, dim2=2).sum(1)
        size = priors @ (state.means.square().sum(1) + traces)
        within = (priors[:, None, None] * state.covariances).sum(0)
        statistics = ClassStatistics(self._counts, state.means, within, traces)
        value = point.value + 0.5 * self._decay * size
        return statistics, point.layer, point.bias, value.item()


@dataclass(frozen=True, eq=False)
class ClosedPoint:
    """The regression on means and covariances of the classes at (W, b), (1, K, m)."""

    state: Spread
    targets: Targets
    priors: Float64[Tensor, "K"]
    penalties: Float64[Tensor, "m"]
    weight: Rows

    def members(self, rows: Tensor) -> "ClosedPoint":
        """The batch of one."""
        return self

    @property
    def layer(self) -> Float64[Tensor, "K d"]:
        """W."""
        return self.weight[0, :, : self.state.means.shape[1]]

    @property
    def bias(self) -> Float64[Tensor, "K"]:
        """b, 0 without one."""
        wide = self.weight.shape[2] > self.state.means.shape[1]
        return self.weight[0, :, -1] if wide else torch.zeros_like(self.weight[0, :, 0])

    @cached_property
    def _means(self) -> Float64[Tensor, "K m"]:
        """μ_k, and 1 where there is a bias."""
        extra = self.weight.shape[2] - self.state.means.shape[1]
        return torch.nn.functional.pad(self.state.means, (0, extra), value=1.0)

    @cached_property
    def _logits(self) -> Float64[Tensor, "K K"]:
        return self._means @ self.weight[0].mT

    @cached_property
    def _outputs(self) -> Float64[Tensor, "K K"]:
        return self.targets.loss.outputs(self._logits)

    @cached_property
    def _spread(self) -> Float64[Tensor, "K K K"]:
        """Θ_k."""
        return self.layer @ self.state.covariances @ self.layer.mT

    @cached_property
    def curvature(self) -> Float64[Tensor, "K K K"]:
        """ω_kS_k."""
        return self.targets.weights[:, :, None] * self.targets.loss.curvature(self._outputs)

    @cached_property
    def residuals(self) -> Float64[Tensor, "K K"]:
        """q̄_k, with T[Θ] = p(Θ_ii - 2(Θp)_i + 2pᵀΘp - Σ p_jΘ_jj)."""
        p, spread = self._outputs, self._spread
        diagonal, across = spread.diagonal(dim1=1, dim2=2), (spread @ p[:, :, None])[..., 0]
        level = 2 * (p * across).sum(1) - (p * diagonal).sum(1)
        third = p * (diagonal - 2 * across + level[:, None])
        return self.targets.residuals(p) + 0.5 * self.targets.weights * third

    @cached_property
    def value(self) -> Float64[Tensor, ""]:
        """The loss to first order in Σ_k, with the penalty of (W, b)."""
        fit = self.targets.values(self._logits) + 0.5 * (self.curvature * self._spread).sum((1, 2))
        return self.priors @ fit + 0.5 * (self.penalties * self.weight.square()).sum()

    @cached_property
    def gradient(self) -> Rows:
        """Of the value."""
        pulled = self.curvature @ (self.layer @ self.state.covariances)
        own = (self.priors[:, None, None] * pulled).sum(0)
        own = torch.nn.functional.pad(own, (0, self.weight.shape[2] - own.shape[1]))
        own = own + (self.priors[:, None] * self.residuals).mT @ self._means
        return own[None] + self.penalties * self.weight

    @cached_property
    def gradient_norm(self) -> Float64[Tensor, ""]:
        """Relative to the sizes of its parts."""
        size = (self.priors[:, None] * self.residuals.square()).sum() * self._moment.trace()
        return self.gradient.norm() / (size.sqrt() + (self.penalties * self.weight).norm())

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """By differentiation of the gradient."""
        free = self.weight.detach().requires_grad_()
        along = (replace(self, weight=free).gradient * direction).sum()
        return torch.autograd.grad(along, free)[0]

    @cached_property
    def _moment(self) -> Float64[Tensor, "m m"]:
        d, means = self.state.means.shape[1], self._means
        moment = means.mT @ (self.priors[:, None] * means)
        moment[:d, :d] += (self.priors[:, None, None] * self.state.covariances).sum(0)
        return moment

    @cached_property
    def _factor(self) -> Float64[Tensor, "m m"]:
        mean = (self.priors[:, None, None] * self.curvature).sum(0).trace() / (len(self.priors) - 1)
        return cholesky(mean * self._moment + torch.diag(self.penalties + 1e-9 * mean))

    def precondition(self, rows: Rows) -> Rows:
        """V through the inverse of s(Σ π_kμ_kμ_kᵀ + Σ_W) + Λ, s the mean curvature."""
        return torch.cholesky_solve(rows[0].mT, self._factor).mT[None]

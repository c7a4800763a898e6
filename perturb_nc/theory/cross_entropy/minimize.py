"""The optimum with cross-entropy: the solver of `perturb_nc.theory.minimize` on (W, b)."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.layer_samples import stratified_rows
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.arrays import cholesky
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.cross_entropy.certificate import certificate_of
from perturb_nc.theory.cross_entropy.elimination import eliminate
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint, WarmStart
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.descent import COUNTED, descend
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.solution import Solution
from perturb_nc.validation import ArrayLike, as_features, as_labels, at_least, positive

_MANY, _SHARE = 2_000, 8  # samples from which on an eighth of them is solved first
_ROUGH = 1e-3  # relative gradient norm, well below what sampling changes


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropySolution(Solution):
    """The optimum of a CrossEntropyProblem: a Solution whose statistics are exact throughout.

    `gradient_norm` is ‖∇g‖_F in (W, b) relative to its bound |Q||H|/N + |λ(W, b)|; class variances
    are those of the samples.
    """

    problem: CrossEntropyProblem  # type: ignore[assignment]  # its sibling

    @cached_property
    def point(self) -> CrossEntropyPoint:
        """The problem at this weight and bias."""
        return self.problem.at(self.weight, self.bias)

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of H*, exact in every class."""
        return moved_statistics(self.problem, self.point)

    def features(self, reference_features: ArrayLike, labels: ArrayLike) -> Float64[Tensor, "N d"]:
        """Optimal features of given samples, (βh0 + Wᵀω(t - p))/c.

        Args:
            reference_features: (N, d), those the problem was built from or others.
            labels: (N,) in 0..K-1.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels out of range.
        """
        k, d = self.weight.shape
        x = as_features(reference_features, name="reference_features", dim=d)
        y = as_labels(labels, len(x), num_classes=k).to(self.weight.device)
        return optimal_features(self.problem, self.point, x.to(self.weight), y)


@minimize.register(CrossEntropyProblem)
def minimize_cross_entropy(  # type: ignore[misc]  # a sibling, not a subclass
    problem: CrossEntropyProblem,
    *,
    tol: float = 1e-10,
    max_steps: int = 200,
    initial_weight: ArrayLike | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> CrossEntropySolution:
    """`minimize` with cross-entropy: truncated Newton-CG on (W, b), preconditioned by S̄ ⊗ HHᵀ/N.

    By default from W = 0 (at β = 0, where the optima form a continuum, from a frame along the class
    means), with many samples from the optimum of an eighth of them in a span of 2K
    directions. One product costs O(NKd), one step K d³/3 for the preconditioner.
    """
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    clock = Clock.of(time_limit, progress)
    if initial_weight is not None:
        point = problem.at(problem.checked_weight(initial_weight, "initial_weight"))
    else:
        point = problem.at(*_start(problem, clock))
    evaluate = WarmStart(point)
    found = descend(lambda _: evaluate, point.weight, tol, max_steps, clock=clock)
    point = evaluate(found.weight)
    return CrossEntropySolution(
        problem=problem,
        weight=point.last_layer,
        bias=outer_bias(problem, point) if problem.bias else None,
        objective=point.excess.item() + problem.anchor_cost,
        gradient_norm=point.gradient_norm.item(),
        status=found.status[0],
        certificate=certificate_of(point, problem.anchor_cost),
        **{name: getattr(found, name)[0].item() for name in COUNTED},
    )


def optimal_features(
    problem: CrossEntropyProblem,
    point: CrossEntropyPoint,
    features: Float64[Tensor, "N d"],
    labels: Int64[Tensor, "N"],
) -> Float64[Tensor, "N d"]:
    """Features of given samples at the optimum for the last layer of a point."""
    s, weight = point.samples, point.last_layer
    anchors = s.gamma * (features @ weight.mT) + outer_bias(problem, point)
    state = eliminate(problem.targets(labels), anchors, point.factor)
    return s.gamma * features - s.kappa * (state.residuals @ weight)


def outer_bias(problem: CrossEntropyProblem, point: CrossEntropyPoint) -> Float64[Tensor, "K"]:
    """b of the features themselves, where the point has that of centred ones."""
    return point.bias - point.samples.gamma * (point.last_layer @ problem.shift)


def moved_statistics(problem: CrossEntropyProblem, point: CrossEntropyPoint) -> ClassStatistics:
    """Class statistics of H, from those of H0 and the residuals: H is not formed."""
    reference, y, s = problem.statistics, problem.labels, point.samples
    w, n, counts = point.last_layer, len(y), reference.counts[:, None]
    q = point.state.residuals
    mean = q.new_zeros(len(w), len(w)).index_add_(0, y, q) / counts
    own = q - mean[y]
    cross = own.mT @ s.features / n
    pull = s.gamma * s.kappa * (w.mT @ cross)
    within = s.gamma**2 * reference.within - pull - pull.mT
    within = within + s.kappa**2 * (w.mT @ (own.mT @ own / n) @ w)
    within.diagonal().clamp_(min=0.0)  # below zero is rounding
    means = s.gamma * reference.means - s.kappa * (mean @ w)
    # Of each sample: |γ(x - x̄) - κWᵀ(q - q̄)|², less the part that is γ² times the old variance.
    logits = s.features @ w.mT
    spread = s.kappa**2 * (own @ (w @ w.mT)) - 2 * s.gamma * s.kappa * logits
    extra = q.new_zeros(len(w)).index_add_(0, y, (own * spread).sum(1)) / counts[:, 0]
    variance = s.gamma**2 * reference.class_variance + extra
    return ClassStatistics(reference.counts, means, within, variance.clamp(min=0.0))


def _start(
    problem: CrossEntropyProblem, clock: Clock
) -> tuple[Float64[Tensor, "K d"], Float64[Tensor, "K"] | None]:
    """W and b to start from: with many samples, what is optimal for some in some directions.

    Off by what sampling makes them differ, and by what lies outside the span of the class means
    and of their images under (Σ + λ_WI)⁻¹: for that the first full step is. None for b: its best.
    """
    many, k = len(problem.labels), problem.num_classes
    if many < max(_MANY, 2 * _SHARE * k):
        return _starting_weight(problem), None
    means, moment = problem.statistics.centered_means, problem.samples.moment.clone()
    moment.diagonal().add_(problem.lambda_w)
    read = torch.cholesky_solve(means.mT, cholesky(moment)).mT
    if not read.isfinite().all():  # for the solver to name
        return _starting_weight(problem), None
    basis = torch.linalg.qr(torch.cat([means, read]).mT).Q
    rows = stratified_rows(problem.labels, many // _SHARE).to(problem.labels.device)
    part = replace(problem, features=problem.features[rows] @ basis, labels=problem.labels[rows])
    found = minimize_cross_entropy(part, tol=_ROUGH, time_limit=clock.left())
    return found.weight @ basis.mT, found.bias


def _starting_weight(problem: CrossEntropyProblem) -> Float64[Tensor, "K d"]:
    """0; at β = 0 the collapsed optimum's size along the centred class means."""
    means = problem.statistics.centered_means
    if problem.beta > 0:
        return torch.zeros_like(means)
    k, d = means.shape
    c0 = math.sqrt(problem.lambda_w * problem.lambda_h)
    gap = math.log(max(1.0, 1 + k * (1 / c0 - 1)))
    size = math.sqrt(gap * math.sqrt(problem.lambda_h / problem.lambda_w))
    u, _, vh = torch.linalg.svd(means, full_matrices=False)
    rank = min(k - 1, d)
    return size * u[:, :rank] @ vh[:rank]

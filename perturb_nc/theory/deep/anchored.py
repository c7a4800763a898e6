"""A deep linear head on features kept near reference features: models (1) and (2) joined.

    f = 1/(2N) |W_L … W_1 H - Y|² + λ_W/(2K) Σ_l |W_l|² + λ_H/(2N) |H|² + β/(2N) |H - H0|²       (3)

in the units of (1), which is its case L = 1; at β = 0 it is (2). With A = W_L … W_1 the features
are those of (1) for the weight A, so that (3) depends on H0 through its class statistics alone.
ReLU heads have no such reduction: give `reference_features` to `DeepUFM`, with `deep_penalties` for
the units.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, positive

Weights = list[Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class AnchoredDeepProblem(Summarised):
    """Problem (3), reduced to the class statistics of H0 and the weights of the head.

    Widths of the head do not enter, as long as they are at least K: for given A the best weights
    share its singular values evenly, and Σ_l |W_l|² = L Σ_i σ_i(A)^(2/L).

    Args:
        statistics: class statistics of H0; classes may be imbalanced.
        depth: L >= 1 linear layers.
        lambda_w: λ_W > 0, of every layer.
        lambda_h: λ_H >= 0, not 0 together with beta.
        beta: β >= 0.

    Raises:
        ValueError: values out of range.
    """

    statistics: ClassStatistics
    _: KW_ONLY
    depth: int
    lambda_w: float
    lambda_h: float
    beta: float

    def __post_init__(self) -> None:
        at_least(self.depth, 1, "depth")
        self.single_layer()  # whose checks apply

    def single_layer(self) -> NearCollapseProblem:
        """The case L = 1 with the same λ_W, λ_H and β."""
        return NearCollapseProblem(
            self.statistics, lambda_w=self.lambda_w, lambda_h=self.lambda_h, beta=self.beta
        )

    def at(self, weight: Float64[Tensor, "K d"]) -> ReducedPoint:
        """The features for the head A, and all of f but the penalty of the weights."""
        hyperparameters = weight.new_tensor([0.0, self.lambda_h, self.beta])
        return ReducedPoint(self.statistics, weight, hyperparameters, has_bias=False)

    def objective(self, weights: Sequence[Tensor]) -> float:
        """min over H of f, at weights W_1..W_L."""
        return self._value_and_gradient(weights)[0]

    def factors(self, weight: Float64[Tensor, "K d"]) -> Weights:
        """Balanced W_1 (K×d), W_2..W_L (K×K) with product A: the cheapest ones."""
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = (s ** (1 / self.depth))[:, None]
        if self.depth == 1:
            return [weight]
        k = len(s)
        middle = [torch.diag(root.flatten())] * (self.depth - 2)
        return [root * vh, *middle, u[:, :k] * root.mT]

    def _value_and_gradient(self, weights: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        heads = [weights[0]]
        for weight in weights[1:]:
            heads.append(weight @ heads[-1])
        point, decay = self.at(heads[-1]), self.lambda_w / self.statistics.num_classes
        back, gradient = point.gradient, []
        for layer in range(len(weights) - 1, -1, -1):
            below = back @ heads[layer - 1].mT if layer > 0 else back
            gradient.append(below + decay * weights[layer])
            back = weights[layer].mT @ back
        penalty = 0.5 * decay * sum(w.square().sum().item() for w in weights)
        return point.objective.item() + penalty, gradient[::-1]


@dataclass(frozen=True, eq=False, repr=False)
class AnchoredSolution(Summarised):
    """A minimum of (3).

    Attributes:
        problem: what was solved.
        weights: W_1..W_L, balanced.
        head: A = W_L … W_1, (K, d).
        statistics: class statistics of H*, as in `Solution`.
        objective: f.
        gradient_norm: largest entry of ∇f in the weights.
        lower_bound: no weights and features have a smaller f, from the certificate of (1); NaN
            where β = λ_H = 0 has none.
        is_global: True where objective and bound agree to 1e-9 of what the head can change; None
            where that is open, as it is for most heads of L >= 2.
        starts: descents made, head zero among them for L >= 2.
        agreeing: how many of them ended at this objective, to 1e-6 of what the head can change.
        contractions: β/(β + λ_H + σ_i(A)²), (K,): what deviations within a class are multiplied by
            along the right singular vectors of A; β/(β + λ_H) off them.
        status: how it ended.
    """

    problem: AnchoredDeepProblem
    weights: Weights
    head: Float64[Tensor, "K d"]
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    lower_bound: float
    is_global: bool | None
    starts: int
    agreeing: int
    contractions: Float64[Tensor, "K"]
    status: Status

    def _summary(self) -> dict[str, object]:
        measured = self.statistics._summary()
        sizes = {name: measured[name] for name in ("num_classes", "dim", "nc1_trace")}
        ends = [self.contractions.min(), self.contractions.max()]
        given = super()._summary()
        left_out = ("problem", "weights", "head", "statistics", "contractions")
        kept = {name: value for name, value in given.items() if name not in left_out}
        return {"layers": len(self.weights)} | sizes | {"contractions": ends} | kept

    def layers(self) -> list[ClassStatistics]:
        """Statistics of H, W_1 H, …, W_{L-1} … W_1 H: what enters W_1..W_L."""
        found = [self.statistics]
        for weight in self.weights[:-1]:
            s = found[-1]
            found.append(s.moved(s.means @ weight.mT, weight @ s.within @ weight.mT))
        return found


def minimize_anchored(
    problem: AnchoredDeepProblem,
    *,
    tol: float = 1e-7,
    max_steps: int = 5000,
    restarts: int = 4,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> AnchoredSolution:
    """The least of several minima of (3), by L-BFGS on the weights from balanced factors.

    For L >= 2 the penalty Σ_i σ_i(A)^(2/L) is not convex and has minima with directions of A at
    zero, all of them at the worst. The starts are the optimum at L = 1, that with directions
    stretched to the size which fits the class means (where a deep head costs less than a single
    layer), heads drawn at random with fixed seeds, and zero; what lower_bound leaves open is open.

    Args:
        tol: largest entry of the gradient to reach.
        max_steps: of L-BFGS, from every start.
        restarts: descents beyond the first, for L >= 2.
        time_limit: seconds after which the best point of all is returned, with TIME_LIMIT.
        progress: called as progress(starts, f) after every descent.

    Raises:
        ValueError: tol, max_steps, restarts or time_limit out of range.
    """
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    restarts = at_least(restarts, 0, "restarts")
    clock = Clock.of(time_limit, progress)
    single = minimize(problem.single_layer(), time_limit=clock.left()).weight
    heads = [single]
    if problem.depth > 1:
        heads = [single, *_other_heads(problem, single, restarts)]
    ends: list[_End] = []
    for head in heads:
        ends.append(_descend(problem, head, tol, max_steps, clock))
        clock.report(len(ends), ends[-1].objective)
    if problem.depth > 1:
        zero = problem.factors(torch.zeros_like(single))
        ends.insert(0, _End(problem.objective(zero), zero, 0.0, Status.CONVERGED))  # wins a tie
    found = _solution(problem, ends)
    return replace(found, status=Status.TIME_LIMIT) if clock.expired() else found


@dataclass(frozen=True, eq=False)
class _End:
    """Where a descent ended."""

    objective: float
    weights: Weights
    norm: float
    status: Status


def _other_heads(
    problem: AnchoredDeepProblem, single: Float64[Tensor, "K d"], count: int
) -> list[Float64[Tensor, "K d"]]:
    """Heads to start from beside the optimum at L = 1."""
    means = problem.at(single).means
    fitting = torch.linalg.pinv(means.mT, rtol=1e-3)  # A with AM = I
    generator = torch.Generator().manual_seed(0)
    heads = [fitting, 0.5 * (fitting + single)]
    for _ in range(count - len(heads)):
        noise = torch.randn(single.shape, generator=generator, dtype=torch.float64, device="cpu")
        heads.append(noise.to(single) * (fitting.norm() / noise.norm()))
    return heads[:count]


def _descend(
    problem: AnchoredDeepProblem,
    head: Float64[Tensor, "K d"],
    tol: float,
    max_steps: int,
    clock: Clock,
) -> _End:
    """L-BFGS from the balanced factors of a head; one step at least."""
    start = problem.factors(head)
    shapes = [w.shape for w in start]
    sizes = [w.numel() for w in start]

    def unpack(flat: np.ndarray) -> Weights:
        parts = torch.from_numpy(flat).to(head.device).split(sizes)
        return [p.unflatten(0, s) for p, s in zip(parts, shapes, strict=True)]

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem._value_and_gradient(unpack(flat))
        return value, torch.cat([g.flatten() for g in gradient]).cpu().numpy()

    def watch(_: np.ndarray) -> None:
        if clock.expired():
            raise StopIteration

    found = scipy.optimize.minimize(
        evaluate,
        torch.cat([w.flatten() for w in start]).cpu().numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=watch,
        options={
            "maxiter": max_steps,
            "maxfun": 2 * max_steps,
            "gtol": tol,
            "ftol": 0,
            "maxcor": 30,
        },
    )
    norm = float(np.abs(found.jac).max())
    status = Status.CONVERGED
    if norm > tol:
        status = Status.MAX_STEPS if found.nit >= max_steps else Status.STALLED
        status = Status.TIME_LIMIT if clock.expired() else status
    return _End(float(found.fun), unpack(found.x), norm, status)


def _solution(problem: AnchoredDeepProblem, ends: list[_End]) -> AnchoredSolution:
    best = min(ends, key=lambda end: end.objective)
    head = best.weights[0]
    for weight in best.weights[1:]:
        head = weight @ head
    point = problem.at(head)
    values, beta = torch.linalg.svdvals(head), problem.beta
    least = point.anchor_cost.item()
    changed = best.objective - least  # what a head can change of f at most
    bound = _lower_bound(problem, best.objective)
    return AnchoredSolution(
        problem=problem,
        weights=best.weights,
        head=head,
        statistics=problem.statistics.moved(point.means, point.within),
        objective=best.objective,
        gradient_norm=best.norm,
        lower_bound=bound,
        is_global=True if best.objective - bound <= 1e-9 * changed else None,
        starts=len(ends),
        agreeing=sum(end.objective - best.objective <= 1e-6 * changed for end in ends),
        contractions=beta / (beta + problem.lambda_h + values.square()),
        status=best.status,
    )


def _lower_bound(problem: AnchoredDeepProblem, reached: float) -> float:
    """A bound on min f of (3) from that of (1), given a value that f reaches.

    At the optimum λ_W/(2K) Σ_i L σ_i^(2/L) <= reached - min f without penalty =: s, so that no
    σ_i exceeds σ̂ = (2Ks/(λ_W L))^(L/2). On [0, σ̂] the concave function L u^(1/L) of u = σ² lies
    above its chord L σ̂^(2/L-2) u, so that f is at least f of (1) with λ_W' = λ_W L σ̂^(2/L-2),
    which `certify` bounds (§4.2). Exact at L = 1.
    """
    depth, k = problem.depth, problem.statistics.num_classes
    single = problem.single_layer()
    floor = single.at(torch.zeros_like(problem.statistics.means)).anchor_cost.item()
    slack = max(reached - floor, 0.0)
    chord = depth * (2 * k * slack / (problem.lambda_w * depth)) ** (1 - depth)
    if not (math.isfinite(chord) and chord > 0):
        return floor
    relaxed = replace(single, lambda_w=problem.lambda_w * chord)
    return max(floor, minimize(relaxed).certificate.lower_bound)

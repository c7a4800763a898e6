"""A deep linear head on features kept near reference features: models (1) and (2) joined.

    f = 1/(2N) |W_L … W_1 H - Y|² + λ_W/(2K) Σ_l |W_l|² + λ_H/(2N) |H|² + β/(2N) |H - H0|²       (3)

in the units of (1), which is its case L = 1; at β = 0 it is (2). With A = W_L … W_1 the features
are those of (1) for the weight A, so that (3) depends on H0 through its class statistics alone.
ReLU heads have no such reduction: give `reference_features` to `DeepUFM`, with `deep_penalties` for
the units.
"""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.deep.collapse import scalar_optimum
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, nonnegative, positive

Weights = list[Tensor]


@dataclass(frozen=True, eq=False)
class AnchoredDeepProblem:
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


@dataclass(frozen=True, eq=False)
class AnchoredSolution:
    """A minimum of (3).

    Attributes:
        problem: what was solved.
        weights: W_1..W_L, balanced.
        head: A = W_L … W_1, (K, d).
        statistics: class statistics of H*, as in `Solution`.
        objective: f.
        gradient_norm: largest entry of ∇f in the weights.
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
    contractions: Float64[Tensor, "K"]
    status: Status

    def layers(self) -> list[ClassStatistics]:
        """Statistics of H, W_1 H, …, W_{L-1} … W_1 H: what enters W_1..W_L."""
        found = [self.statistics]
        for weight in self.weights[:-1]:
            s = found[-1]
            found.append(s.moved(s.means @ weight.mT, weight @ s.within @ weight.mT))
        return found


def minimize_anchored(
    problem: AnchoredDeepProblem, *, tol: float = 1e-7, max_steps: int = 5000
) -> AnchoredSolution:
    """A minimum of (3) by L-BFGS on the weights, from the balanced factors of the optimum at L = 1.

    For L >= 2 a head of zero is a local minimum beside it: where no start stays away from zero,
    zero is returned; the lower of the two always is.

    Args:
        tol: largest entry of the gradient to reach.
        max_steps: of L-BFGS.

    Raises:
        ValueError: tol or max_steps out of range.
    """
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    start = problem.factors(minimize(problem.single_layer()).weight)
    shapes = [w.shape for w in start]
    sizes = [w.numel() for w in start]

    def unpack(flat: np.ndarray) -> Weights:
        parts = torch.from_numpy(flat).split(sizes)
        return [p.unflatten(0, s) for p, s in zip(parts, shapes, strict=True)]

    def evaluate(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem._value_and_gradient(unpack(flat))
        return value, torch.cat([g.flatten() for g in gradient]).numpy()

    found = scipy.optimize.minimize(
        evaluate,
        torch.cat([w.flatten() for w in start]).numpy(),
        jac=True,
        method="L-BFGS-B",
        options={
            "maxiter": max_steps,
            "maxfun": 2 * max_steps,
            "gtol": tol,
            "ftol": 0,
            "maxcor": 30,
        },
    )
    weights, norm = unpack(found.x), float(np.abs(found.jac).max())
    zero = [torch.zeros_like(w) for w in weights]
    if problem.depth > 1 and problem.objective(zero) <= found.fun:
        weights, norm = zero, 0.0
    if norm <= tol:
        status = Status.CONVERGED
    else:
        status = Status.MAX_STEPS if found.nit >= max_steps else Status.STALLED
    return _solution(problem, weights, norm, status)


def _solution(
    problem: AnchoredDeepProblem, weights: Weights, norm: float, status: Status
) -> AnchoredSolution:
    head = weights[0]
    for weight in weights[1:]:
        head = weight @ head
    point = problem.at(head)
    values, beta = torch.linalg.svdvals(head), problem.beta
    return AnchoredSolution(
        problem=problem,
        weights=weights,
        head=head,
        statistics=problem.statistics.moved(point.means, point.within),
        objective=problem.objective(weights),
        gradient_norm=norm,
        contractions=beta / (beta + problem.lambda_h + values.square()),
        status=status,
    )


def anchored_contraction(*, depth: int, lambda_w: float, lambda_h: float, beta: float) -> float:
    """The within-class contraction of (3) in the span of the class means, at collapsed H0 = H*.

    β/(β + λ_H + a²) with a² = (c p^(2/(L+1))/λ_W)^L the squared singular values of the head,
    c = (λ_H λ_W^L)^(1/(L+1)) and p of `scalar_optimum`; with a² = λ_H x^L, β/(β + λ_H(1 + x^L)).
    At L = 1 it is β/(β + √(λ_H/λ_W)), an eigenvalue of `near_collapse_spectrum`.

    Args:
        depth: L >= 1.
        lambda_w, lambda_h: > 0, in the units of (1).
        beta: >= 0.

    Raises:
        ValueError: values out of range.
    """
    depth = at_least(depth, 1, "depth")
    lambda_w, lambda_h = positive(lambda_w, "lambda_w"), positive(lambda_h, "lambda_h")
    beta = nonnegative(beta, "beta")
    c = (lambda_h * lambda_w**depth) ** (1 / (depth + 1))
    p, _ = scalar_optimum(depth, c)
    return beta / (beta + lambda_h + (c * p ** (2 / (depth + 1)) / lambda_w) ** depth)


def measured_contraction(
    reference: ClassStatistics, features: ClassStatistics, weight: Float[Tensor, "m d"]
) -> tuple[float, float]:
    """Within-class contraction of features against their reference: in, and off, a row space.

    √(tr PΣ_W P / tr PΣ_W0 P) with P the projection on the top K right singular vectors of weight,
    and on their complement.

    Raises:
        ValueError: statistics or a weight of another dimension.
    """
    k, d = reference.means.shape
    if features.dim != d or weight.shape[1] != d:
        raise ValueError(
            f"features and weight must have the dimension {d} of the reference, got "
            f"{features.dim} and {weight.shape[1]}"
        )
    rows = torch.linalg.svd(weight.double(), full_matrices=False).Vh[:k]
    traces = []
    for statistics in (features, reference):
        inside = ((rows @ statistics.within) * rows).sum().item()
        traces.append((inside, statistics.within.trace().item() - inside))
    return math.sqrt(traces[0][0] / traces[1][0]), math.sqrt(traces[0][1] / traces[1][1])

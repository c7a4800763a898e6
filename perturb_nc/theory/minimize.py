"""The optimum of (1) by a truncated Newton method on the weight alone."""

import math
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.certificate import Certificate, certify_point
from perturb_nc.theory.newton import line_search, realigned, seek_negative_curvature, solve_hessian
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.validation import ArrayLike, as_features, as_labels, at_least, positive

Rows = Float64[Tensor, "K d"]


class Status(Enum):
    """How a minimisation ended; the value says what to do."""

    CONVERGED = "converged"
    MAX_STEPS = "stopped at max_steps; raise max_steps, or start nearer with initial_weight"
    STALLED = (
        "rounding stops the objective from falling further; accept the gradient norm reached, "
        "or rescale the features so that |H0|²/N is near 1"
    )


@dataclass(frozen=True, eq=False)
class Solution:
    """The optimum of a NearCollapseProblem.

    Attributes:
        problem: what was solved.
        weight: W*, (K, d).
        bias: b*, (K,), or None in the model without bias.
        statistics: class statistics of H*, of the same kind as measured ones. Means and
            within-class covariance are exact; class variances as in `ClassStatistics.moved`.
        objective: f(W*, H*).
        gradient_norm: ‖∇g‖_F relative to its bound |E||H|/N + (λ_W/K)|W|, E = WH + b1ᵀ - Y.
        steps: Newton steps taken.
        products: Hessian-vector products taken.
        status: how it ended.
        certificate: proof of, or distance from, global optimality.
    """

    problem: NearCollapseProblem
    weight: Rows
    bias: Float64[Tensor, "K"] | None
    statistics: ClassStatistics
    objective: float
    gradient_norm: float
    steps: int
    products: int
    status: Status
    certificate: Certificate

    def features(self, reference_features: ArrayLike, labels: ArrayLike) -> Float64[Tensor, "N d"]:
        """Optimal features of given samples, (WᵀW + cI)⁻¹(Wᵀ(e_y - b) + βh0).

        Args:
            reference_features: (N, d), those the problem was built from or others.
            labels: (N,) in 0..K-1.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels out of range.
        """
        point = self.problem.at(self.weight)
        x = as_features(reference_features, name="reference_features", dim=self.weight.shape[1])
        y = as_labels(labels, len(x), num_classes=self.weight.shape[0])
        device = self.weight.device
        return point.features(x.to(device, torch.float64), y.to(device))


def minimize(
    problem: NearCollapseProblem,
    *,
    tol: float = 1e-10,
    max_steps: int = 200,
    initial_weight: ArrayLike | None = None,
) -> Solution:
    """Minimise (1) over W, H (and b): truncated Newton-CG on g(W) = min_{H,b} f.

    Every step solves ∇²g[V] = -∇g by conjugate gradients, preconditioned by (S_H + (λ_W/K)I)⁻¹
    (the Hessian at fixed H), with a line search on g. Negative curvature ends a solve early; where
    the certificate shows that a stationary point may be improvable, its Hessian is searched for a
    direction of it, so that the result satisfies the second-order conditions. One product costs
    O(Kd²), one step d³/3 for the preconditioner; N does not enter.

    Args:
        problem: what to minimise.
        tol: the relative gradient norm to reach.
        max_steps: Newton steps at most.
        initial_weight: (K, d); by default the central-path weight W*(H0).

    Returns:
        Solution, whose status says whether tol was reached and whose certificate says how far from
        the global minimum it can be.

    Raises:
        ValueError: tol or max_steps out of range, a bad initial weight.
    """
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    if initial_weight is None:
        start = _start(problem)
    else:
        start = problem.at(problem.checked_weight(initial_weight, "initial_weight"))
    try:
        return _descend(problem, start, tol, max_steps)
    except LinAlgError as error:
        raise ValueError(
            "statistics are too badly scaled for float64 (class means of size "
            f"{problem.statistics.means.abs().max().item():.1e}, lambda_w = {problem.lambda_w:g}); "
            "rescale the features so that |H0|²/N is near 1, and subtract a common offset"
        ) from error


def _start(problem: NearCollapseProblem) -> ReducedPoint:
    """W*(H0); at β = 0, where H0 does not matter, the balanced optimum in its orientation."""
    s = problem.statistics
    # Where no class mean pulls all of W = 0 may be optimal, and exactly so.
    zero = problem.at(torch.zeros_like(s.means))
    if not zero.gradient.any() and certify_point(zero).is_global:
        return zero
    try:
        weight = problem.central_path_weight()
    except LinAlgError:
        weight = s.priors[:, None] * s.centered_means  # any start that tells classes apart
    if problem.beta == 0:
        k, d = weight.shape
        if problem.bias:
            weight = weight - weight.mean(0)
        u, _, vh = torch.linalg.svd(weight, full_matrices=False)
        shrunk = max(0.0, 1 - math.sqrt(problem.lambda_w * problem.lambda_h))
        size = math.sqrt(shrunk * math.sqrt(problem.lambda_h / problem.lambda_w))
        rank = min(k - 1 if problem.bias else k, d)
        weight = size * u[:, :rank] @ vh[:rank]
    return problem.at(weight)


def _descend(
    problem: NearCollapseProblem, point: ReducedPoint, tol: float, max_steps: int
) -> Solution:
    steps = products = 0
    move: Tensor | None
    while True:
        norm = point.gradient_norm
        if norm > tol:
            turned = realigned(problem.at, point) if steps > 1 else None
            if turned is not None:
                point, norm = turned, turned.gradient_norm
                if norm <= tol:
                    continue
            forcing = max(min(0.1, norm), 0.1 * tol / norm)
            found = solve_hessian(point, -point.gradient, forcing)
            move, expand = found.solution, found.negative is not None and found.products == 1
        elif certify_point(point).is_global:
            status = Status.CONVERGED
            break
        else:
            found = seek_negative_curvature(point)
            move, expand = found.negative, True
        products += found.products
        if move is None:
            status = Status.CONVERGED
            break
        if steps == max_steps:
            status = Status.MAX_STEPS
            break
        following = line_search(problem.at, point, move, expand=expand)
        if following is None:
            status = Status.CONVERGED if norm <= tol else Status.STALLED
            break
        point, steps = following, steps + 1
    return Solution(
        problem=problem,
        weight=point.weight,
        bias=point.bias if problem.bias else None,
        statistics=point.reference.moved(point.means, point.within),
        objective=point.objective.item(),
        gradient_norm=norm,
        steps=steps,
        products=products,
        status=status,
        certificate=certify_point(point),
    )

"""The optimum of (1) by a truncated Newton method on the weight alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.certificate import Certificate, certify_batch, certify_point
from perturb_nc.theory.newton import (
    Evaluate,
    Mask,
    Point,
    line_search,
    realigned,
    seek_negative_curvature,
    solve_hessian,
)
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.status import Status
from perturb_nc.validation import ArrayLike, as_features, as_labels, at_least, positive

Rows = Float64[Tensor, "K d"]
Points = Callable[[Int64[Tensor, "b"]], Evaluate]
Neglected = Callable[[Any], Float64[Tensor, "b"]]


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


@singledispatch
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
        start = starting_weight(problem)
    else:
        start = problem.checked_weight(initial_weight, "initial_weight")
    point = problem.at(start)
    point = replace(point, hyperparameters=point.hyperparameters[None])
    found = descend(lambda _: lambda w: replace(point, weight=w), start[None], tol, max_steps)
    return solution_at(
        problem, found.weight[0], int(found.steps), found.status[0], int(found.products)
    )


def solution_at(
    problem: NearCollapseProblem, weight: Rows, steps: int, status: Status, products: int
) -> Solution:
    """The Solution that has this weight."""
    point = problem.at(weight)
    return Solution(
        problem=problem,
        weight=weight,
        bias=point.bias if problem.bias else None,
        statistics=point.reference.moved(point.means, point.within),
        objective=point.objective.item(),
        gradient_norm=point.gradient_norm.item(),
        steps=steps,
        products=products,
        status=status,
        certificate=certify_point(point),
    )


def starting_weight(problem: NearCollapseProblem) -> Rows:
    """W*(H0); at β = 0, where H0 does not matter, the balanced optimum in its orientation."""
    s = problem.statistics
    # Where no class mean pulls all of W = 0 may be optimal, and exactly so.
    zero = problem.at(torch.zeros_like(s.means))
    if not zero.gradient.any() and certify_point(zero).is_global:
        return zero.weight
    weight = problem.central_path_weight()
    if not weight.isfinite().all():
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
    return weight


@dataclass(frozen=True, eq=False)
class Descent:
    """Where every member of a batch ended."""

    weight: Float64[Tensor, "B K d"]
    steps: Int64[Tensor, "B"]
    products: Int64[Tensor, "B"]
    status: list[Status]


def descend(
    points: Points,
    weight: Float64[Tensor, "B K d"],
    tol: float,
    max_steps: int,
    neglected: Neglected | None = None,
) -> Descent:
    """Newton steps from given weights, for B settings at once; those that have ended retire.

    points gives, for some of the settings, what takes their weights to their points.
    What is `neglected` of the gradient (see `perturb_nc.theory.compression`) is for a larger space:
    where it is above tol a gradient well below it is small enough, whatever its curvature.
    """
    steps = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
    products, status = torch.zeros_like(steps), [Status.CONVERGED] * len(weight)
    final, live = weight.clone(), torch.arange(len(weight), device=weight.device)

    point = points(live)(weight)
    _check_scale(point.gradient_norm, point)
    while len(live):
        enough = _enough(point, tol, neglected)
        if (turning := (point.gradient_norm > enough) & (steps[live] > 1)).any():
            point = realigned(points(live), point, turning)
            enough = _enough(point, tol, neglected)
        far = point.gradient_norm > enough
        move, expand, taken = _directions(points, point, live, enough, enough <= tol)
        _check_scale(move, point)
        products[live] += taken
        moving = move.flatten(1).any(1)
        late = moving & (steps[live] == max_steps)
        for i in live[late]:
            status[int(i)] = Status.MAX_STEPS
        moving = moving & ~late
        final[live] = point.weight
        if not moving.all():
            live, far, move, expand = live[moving], far[moving], move[moving], expand[moving]
            point = points(live)(point.weight[moving])
        if not len(live):
            break
        point, gained = line_search(points(live), point, move, expand)
        for i in live[~gained & far]:
            status[int(i)] = Status.STALLED
        live = live[gained]
        if not gained.all():
            point = points(live)(point.weight[gained])
        steps[live] += 1
    return Descent(final, steps, products, status)


def _enough(point: Point, tol: float, neglected: Neglected | None) -> Float64[Tensor, "b"]:
    """The gradient norm to reach: tol, or a tenth of what is neglected where that is above tol."""
    if neglected is None:
        return torch.full_like(point.gradient_norm, tol)
    beyond = neglected(point)
    return torch.where(beyond > tol, 0.1 * beyond, 0.0).clamp(min=tol)


def _check_scale(values: Tensor, point: Point) -> None:
    if not values.isfinite().all():
        raise ValueError(
            f"statistics are too badly scaled for float64 ({point.scale}); rescale the features so "
            "that |H0|²/N is near 1, and subtract a common offset"
        )


def _directions(
    points: Points,
    point: Point,
    live: Int64[Tensor, "b"],
    enough: Float64[Tensor, "b"],
    final: Mask,
) -> tuple[Float64[Tensor, "b K d"], Mask, Int64[Tensor, "b"]]:
    """Where to move each member (0: it has arrived), whether to expand, and the products taken.

    Newton's direction where the gradient norm is above `enough`, negative curvature elsewhere if
    the member is `final`.
    """
    far = point.gradient_norm > enough
    move, expand = torch.zeros_like(point.weight), torch.zeros_like(far)
    taken = torch.zeros_like(live)

    def part(chosen: Mask) -> Point:
        return point if chosen.all() else points(live[chosen])(point.weight[chosen])

    if far.any():
        norm = point.gradient_norm[far]
        forcing = torch.maximum(norm.clamp(max=0.1), 0.1 * enough[far] / norm)
        own = part(far)
        found = solve_hessian(own, -own.gradient, forcing)
        move[far], taken[far] = found.solution, found.products
        expand[far] = found.bent & (found.products == 1)
    improvable = ~far & final
    if improvable.any():
        improvable &= ~certify_batch(point).is_global
    if improvable.any():
        found = seek_negative_curvature(part(improvable))
        move[improvable], taken[improvable] = found.negative, found.products
        expand[improvable] = True
    return move, expand, taken

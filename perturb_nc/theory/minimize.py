"""The optimum of (1) by a truncated Newton method on the weight alone."""

import math
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.certificate import certify_point
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.compression import Compression, narrow, uncompressed
from perturb_nc.theory.descent import COUNTED, Descent, descend
from perturb_nc.theory.outside import judged_in_space
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.solution import Solution, solution_at
from perturb_nc.theory.status import Status
from perturb_nc.validation import ArrayLike, at_least, instance, positive

Rows = Float64[Tensor, "K d"]


@singledispatch
def minimize(
    problem: NearCollapseProblem,
    *,
    tol: float = 1e-10,
    max_steps: int = 200,
    initial_weight: ArrayLike | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> Solution:
    """Minimise (1) over W, H (and b): truncated Newton-CG on g(W) = min_{H,b} f.

    Every step solves ∇²g[V] = -∇g by conjugate gradients, preconditioned by (S_H + (λ_W/K)I)⁻¹
    (the Hessian at fixed H), with a line search on g. Negative curvature ends a solve early. Where
    the certificate does not prove a stationary point global, and where rounding stops the steps, it
    is left along feature directions that are not used (which the certificate names), or along the
    negative curvature of its Hessian, whose lowest eigenvalue is judged before the result is
    returned: densely for K·d <= 600, by a Lanczos process otherwise.

    Where features are much wider than there are classes the steps are taken on a space of some 7 K
    dimensions that holds W (`perturb_nc.theory.compression`), which grows until the gradient in all
    d dimensions is below tol: one factorisation, d³/3, and O(K²d) a product. Where the certificate
    does not prove global what is found there, its curvature is judged there too, if a second
    factorisation proves that features vary enough outside (`perturb_nc.theory.outside`). Otherwise
    it goes on in all d dimensions, where a product costs O(Kd²) and a step d³/3 for the
    preconditioner. N does not enter.

    Args:
        problem: what to minimise.
        tol: the relative gradient norm to reach.
        max_steps: Newton steps at most.
        initial_weight: (K, d); by default the central-path weight W*(H0).
        time_limit: seconds after which what has been reached is returned, with TIME_LIMIT.
        progress: called as progress(steps, gradient_norm) before every step.

    Returns:
        Solution, whose status says whether tol was reached and whose certificate says how far from
        the global minimum it can be.

    Raises:
        ValueError: tol, max_steps or time_limit out of range, a bad initial weight.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> problem = pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        >>> solution = pnc.minimize(problem)
        >>> solution.status.name, str(solution.certificate)
        ('CONVERGED', 'global optimum, r = ...')
        >>> solution.metrics.nc1 < pnc.collapse_metrics(statistics).nc1
        True

    See Also:
        minimize_batch: many settings at once. small_vicinity: closed forms near collapse.
        central_path_flow: the other prediction.

    Source: docs §4.1.
    """
    instance(problem, NearCollapseProblem, "problem", "make one from statistics")
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    clock = Clock.of(time_limit, progress)
    if initial_weight is not None:
        initial_weight = problem.checked_weight(initial_weight, "initial_weight")
    with torch.inference_mode():  # a quarter of the time of small problems is autograd's books
        found = _minimized(problem, *_start(problem, initial_weight), tol, max_steps, clock)
    own: dict[str, Any] = {
        n: v.clone() for n, v in vars(found).items() if isinstance(v, torch.Tensor)
    }
    return replace(found, **own)  # ordinary tensors


def _start(
    problem: NearCollapseProblem, weight: Rows | None
) -> tuple[Compression, Float64[Tensor, "1 K n"]]:
    """A space for the steps, and a weight in it to begin with."""
    if weight is not None:
        return uncompressed(problem.statistics), weight[None]
    settings = problem.regularization.as_tensor(problem.statistics.means)[None]
    space = narrow(problem.statistics, settings)
    return space, starting_weight(replace(problem, statistics=space.statistics))[None]


def _minimized(
    problem: NearCollapseProblem,
    space: Compression,
    weight: Float64[Tensor, "1 K n"],
    tol: float,
    max_steps: int,
    clock: Clock,
) -> Solution:
    """The optimum from a weight in a space, and in wider ones where that one does not do."""
    settings = problem.regularization.as_tensor(weight)[None]
    counted, only = Descent.begun(weight), torch.zeros(1, dtype=torch.int64, device=weight.device)
    while True:
        left, whole = max_steps - int(counted.steps), space.is_whole
        points = space.points(settings, problem.bias)
        found = descend(points, weight, tol, left, space.neglected, clock, judge=whole)
        counted.add(only, found)
        lifted = space.lifted(found.weight)
        point, spent = space.at(found.weight, settings, problem.bias), clock.expired()
        short = not whole and bool(space.full_norm(point) > tol)
        if short and left and not spent:
            space = space.grown(problem.statistics, point, tol)
            weight = space.compressed(lifted)
            continue
        numbers = {name: getattr(counted, name)[0].item() for name in COUNTED}
        solution = solution_at(problem, lifted[0], status=counted.status[0], **numbers)
        reached = solution.gradient_norm <= tol
        # A turn of the coordinates changes rounding, and so what is below tol.
        ended = whole and (reached or solution.status is not Status.CONVERGED)
        if space.basis is None or ended or (reached and solution.certificate.is_global):
            return solution
        if reached and not whole and not spent:
            judged = judged_in_space(problem.statistics, space, point)
            if judged is not None:
                lowest, tolerance, products = judged
                return replace(
                    solution,
                    lowest_curvature=lowest,
                    curvature_tolerance=tolerance,
                    products=solution.products + products,
                )
        space, weight = uncompressed(problem.statistics), lifted


def starting_weight(problem: NearCollapseProblem) -> Rows:
    """W*(H0); at β = 0, where H0 does not matter, the balanced optimum in its orientation."""
    s = problem.statistics
    # Where no class mean pulls all of W = 0 may be optimal, and exactly so.
    pull = s.means - s.priors @ s.means if problem.bias else s.means
    if problem.beta == 0 or not pull.any():
        zero = problem.at(torch.zeros_like(s.means))
        if certify_point(zero).is_global:
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

"""The least of several minima of the anchored deep model (3), with a proved lower bound."""

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.deep.anchored import AnchoredDeepProblem, Weights
from perturb_nc.theory.deep.anchored_solution import AnchoredSolution
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, positive


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
    if problem.num_layers > 1:
        heads = [single, *_other_heads(problem, single, restarts)]
    ends: list[_End] = []
    for head in heads:
        ends.append(_descend(problem, head, tol, max_steps, clock))
        clock.report(len(ends), ends[-1].objective)
    if problem.num_layers > 1:
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
        value, gradient = problem.value_and_gradient(unpack(flat))
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
    which `certify` bounds (docs §4.2). Exact at L = 1.
    """
    num_layers, k = problem.num_layers, problem.statistics.num_classes
    single = problem.single_layer()
    floor = single.at(torch.zeros_like(problem.statistics.means)).anchor_cost.item()
    slack = max(reached - floor, 0.0)
    chord = num_layers * (2 * k * slack / (problem.lambda_w * num_layers)) ** (1 - num_layers)
    if not (math.isfinite(chord) and chord > 0):
        return floor
    relaxed = replace(single, lambda_w=problem.lambda_w * chord)
    return max(floor, minimize(relaxed).certificate.lower_bound)

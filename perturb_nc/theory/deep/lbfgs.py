"""L-BFGS for `DeepUFM`, on all runs at once."""

import torch
from jaxtyping import Bool
from torch import Tensor

from perturb_nc.theory.deep.batch import Batch, DeepTraining, OnCheck
from perturb_nc.theory.deep.history import History
from perturb_nc.theory.deep.runs import DeepProblem, Points, Runs
from perturb_nc.theory.deep.ufm import DeepUFM
from perturb_nc.validation import at_least


def lbfgs(
    model: DeepUFM,
    *,
    max_steps: int = 2000,
    tol: float = 1e-9,
    memory: int = 20,
    check_every: int = 20,
    on_check: OnCheck | None = None,
) -> DeepTraining:
    """L-BFGS with a weak Wolfe line search, every run with a step and a history of its own.

    The weak Wolfe conditions keep the method sound at the kinks of ReLU (Lewis & Overton 2013).
    Arguments as in `gradient_descent`; memory is the number of pairs kept.

    Raises:
        ValueError: arguments out of range.
    """
    runs = Batch(model, tol, max_steps)
    every, history = at_least(check_every, 1, "check_every"), History(memory)
    value, gradient = runs.problem.value_and_gradient(runs.points)
    restarted = stalled = torch.zeros_like(value, dtype=torch.bool)
    for step in range(max_steps + 1):
        if step % every == 0 or step == max_steps or bool(stalled.all()):
            kept = runs.retire(step, value, gradient, stalled)
            if on_check is not None:
                on_check(step, model)
            if not len(runs.left):
                break
            value, gradient = value[kept], gradient[kept]
            restarted, stalled = restarted[kept], stalled[kept]
            history.take(kept)
        if step == max_steps:
            break
        direction = history.direction(gradient)
        uphill = (direction * gradient).sum(1) >= 0
        direction[uphill] = -gradient[uphill]
        length = torch.ones_like(value)
        if step == 0:
            length = 1 / gradient.norm(dim=1).clamp(min=1.0)
        found = _line_search(runs.problem, runs.points, value, gradient, direction, length)
        points, new_value, new_gradient, moved = found
        history.add(points - runs.points, new_gradient - gradient)
        # A run that cannot move along its L-BFGS direction tries steepest descent next.
        stalled, restarted = ~moved & (uphill | restarted), ~moved
        history.forget(restarted)
        runs.points, value, gradient = points, new_value, new_gradient
    return runs.result()


def _line_search(
    problem: DeepProblem,
    points: Points,
    value: Runs,
    gradient: Points,
    direction: Points,
    length: Runs,
    *,
    trials: int = 30,
) -> tuple[Points, Runs, Points, Bool[Tensor, "R"]]:
    """Points with weak Wolfe conditions by bisection, run by run; the runs that moved."""
    slope = (direction * gradient).sum(1)
    low, high = torch.zeros_like(value), torch.full_like(value, torch.inf)
    best = [points.clone(), value.clone(), gradient.clone()]
    pending = torch.arange(len(value), device=value.device)
    for _ in range(trials):
        part = problem if len(pending) == len(value) else problem.take(pending)
        t = length[pending]
        trial = points[pending] + t[:, None] * direction[pending]
        new_value, new_gradient = part.value_and_gradient(trial)
        falls = new_value <= value[pending] + 1e-4 * t * slope[pending]
        flat = (new_gradient * direction[pending]).sum(1) >= 0.9 * slope[pending]
        for kept, new in zip(best, (trial, new_value, new_gradient), strict=True):
            kept[pending[falls]] = new[falls]
        low[pending] = torch.where(falls, t, low[pending])
        high[pending] = torch.where(falls, high[pending], t)
        middle = (low[pending] + high[pending]) / 2
        length[pending] = torch.where(torch.isinf(high[pending]), 2 * t, middle)
        pending = pending[~(falls & flat)]
        if not len(pending):
            break
    return best[0], best[1], best[2], low > 0

"""Optimisers for `DeepUFM`: gradient descent, and L-BFGS, on all runs at once."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from perturb_nc.summary import Summarised, tally
from perturb_nc.theory.deep.runs import DeepProblem, Points, Runs
from perturb_nc.theory.deep.ufm import DeepUFM
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, positive


@dataclass(frozen=True, eq=False, repr=False)
class DeepTraining(Summarised):
    """What became of every run; the parameters are in the model.

    Attributes:
        objective: f, (R,).
        gradient_norm: |∇f|, (R,).
        steps: taken until the run ended, (R,).
        status: how, one a run.
    """

    objective: Runs
    gradient_norm: Runs
    steps: Int64[Tensor, "R"]
    status: tuple[Status, ...]

    def _summary(self) -> dict[str, object]:
        return {
            "runs": len(self.status),
            "objective": [self.objective.min(), self.objective.max()],
            "gradient_norm": [self.gradient_norm.min(), self.gradient_norm.max()],
            "steps": [self.steps.min(), self.steps.max()],
            "status": tally(self.status),
        }


OnCheck = Callable[[int, DeepUFM], None]


def gradient_descent(
    model: DeepUFM,
    *,
    learning_rate: float,
    max_steps: int,
    tol: float = 1e-10,
    check_every: int = 100,
    on_check: OnCheck | None = None,
) -> DeepTraining:
    """Full-batch gradient descent with a fixed step, as in the papers, on every run of `model`.

    Runs that end - |∇f| <= tol, or f a thousand times its start - are retired and cost no more.

    Args:
        check_every: steps between checks (and calls of on_check).
        on_check: called with the number of steps and the model, up to date; to record or to stop
            (raise: the model keeps what was reached).

    Raises:
        ValueError: arguments out of range.
    """
    positive(learning_rate, "learning_rate")
    runs = _Batch(model, tol, max_steps)
    every = at_least(check_every, 1, "check_every")
    for step in [*range(0, max_steps, every), max_steps]:
        runs.retire(step, *runs.problem.value_and_gradient(runs.points))
        if on_check is not None:
            on_check(step, model)
        if not len(runs.left):
            break
        runs.problem.descend(runs.points, learning_rate, min(every, max_steps - step))
    return runs.result()


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
    runs = _Batch(model, tol, max_steps)
    every, history = at_least(check_every, 1, "check_every"), _History(memory)
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


class _Batch:
    """The runs still going: their points and their problem; ended ones are written to the model."""

    def __init__(self, model: DeepUFM, tol: float, max_steps: int) -> None:
        at_least(max_steps, 1, "max_steps")
        self.model, self.tol = model, positive(tol, "tol")
        self.problem = model.problem
        self.points = model.points()
        self.left = torch.arange(model.runs, device=self.points.device)
        self._all = self.points.clone()
        self._value = model.problem.value_and_gradient(self.points)[0]
        self._limit = 1000 * self._value
        self._norm = torch.zeros_like(self._value)
        self._steps = torch.zeros_like(self.left)
        self._status = [Status.MAX_STEPS] * model.runs

    def retire(
        self,
        step: int,
        value: Runs,
        gradient: Points,
        stalled: Bool[Tensor, "R"] | None = None,
    ) -> Int64[Tensor, "r"]:
        """Record every run, drop those that ended, update the model; which rows are kept."""
        norm = gradient.norm(dim=1)
        self._all[self.left], self._value[self.left] = self.points, value
        self._norm[self.left], self._steps[self.left] = norm, step
        stuck = torch.zeros_like(norm, dtype=torch.bool) if stalled is None else stalled
        broken = ~(value <= self._limit[self.left])
        done = norm <= self.tol
        for mask, status in (
            (stuck, Status.STALLED),
            (done, Status.CONVERGED),
            (broken, Status.DIVERGED),
        ):
            for run in self.left[mask].tolist():
                self._status[run] = status
        self.model.load_points(self._all)
        kept = (~(stuck | done | broken)).nonzero().flatten()
        if len(kept) < len(self.left):
            self.left, self.points = self.left[kept], self.points[kept]
            self.problem = self.problem.take(kept)
        return kept

    def result(self) -> DeepTraining:
        """Of all runs."""
        return DeepTraining(self._value, self._norm, self._steps, tuple(self._status))


class _History:
    """Pairs of steps s and gradient changes y; only those of positive curvature sᵀy count."""

    def __init__(self, memory: int) -> None:
        self.pairs: deque[tuple[Tensor, ...]] = deque(maxlen=at_least(memory, 1, "memory"))

    def add(self, moves: Points, changes: Points) -> None:
        """Append a pair; 1/sᵀy = 0 marks one that must not be used."""
        curvature = (moves * changes).sum(1)
        good = curvature > 1e-14 * moves.norm(dim=1) * changes.norm(dim=1)
        inverse = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        scale = torch.where(good, curvature / changes.square().sum(1), 0.0)
        self.pairs.append((moves, changes, inverse, scale))

    def forget(self, runs: Bool[Tensor, "R"]) -> None:
        """Drop the pairs of some runs."""
        if bool(runs.any()):
            for _, _, inverse, scale in self.pairs:
                inverse[runs], scale[runs] = 0.0, 0.0

    def take(self, kept: Int64[Tensor, "r"]) -> None:
        """Drop the runs that ended."""
        if self.pairs and len(kept) < len(self.pairs[0][2]):
            for index, pair in enumerate(self.pairs):
                self.pairs[index] = tuple(part[kept] for part in pair)

    def direction(self, gradient: Points) -> Points:
        """-H∇f by the two-loop recursion."""
        q, weights = gradient.clone(), []
        for s, y, inverse, _ in reversed(self.pairs):
            weights.append(inverse * (s * q).sum(1))
            q.addcmul_(weights[-1][:, None], y, value=-1)
        scale = torch.ones_like(gradient[:, 0])
        for _, _, _, own in self.pairs:  # the newest usable pair decides
            scale = torch.where(own > 0, own, scale)
        q.mul_(scale[:, None])
        for (s, y, inverse, _), weight in zip(self.pairs, reversed(weights), strict=True):
            q.addcmul_((weight - inverse * (y * q).sum(1))[:, None], s)
        return q.neg_()


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

"""Runs of one batch that end one by one: what they reached, and how."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from perturb_nc.summary import Summarised, tally
from perturb_nc.theory.deep.runs import Points, Runs
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


class Batch:
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

"""When a monitor measures: at every so many calls, and within a budget of time."""

import time

from perturb_nc.validation import at_least, positive


class Turn:
    """Decides which calls measure.

    Args:
        every: of so many calls one measures, the first to begin with.
        budget: per cent of the time that measuring may take; None for no limit.

    Raises:
        ValueError: every below 1, or a budget outside (0, 100].
    """

    def __init__(self, *, every: int = 1, budget: float | None = None) -> None:
        self._every = at_least(every, 1, "every")
        if budget is not None and positive(budget, "budget") > 100:
            raise ValueError(f"budget must be a share in per cent, at most 100, got {budget:g}")
        self._budget = budget
        self._calls = 0
        self._began: float | None = None  # of the first measurement
        self._ended = self._cost = self._spent = 0.0

    def is_come(self, *, together: bool) -> bool:
        """Whether this call measures; the first of a group of processes decides for all."""
        self._calls += 1
        due = (self._calls - 1) % self._every == 0
        if self._budget is not None and self._began is not None:
            waited = time.perf_counter() - self._ended
            due = due and 100 * self._cost <= self._budget * (self._cost + waited)
        if together and self._budget is not None:
            from torch import distributed

            said = [due]
            distributed.broadcast_object_list(said, src=0)
            return said[0]
        return due

    def measured(self, start: float, end: float) -> float | None:
        """Note a measurement; its share of the time since the one before, None at first."""
        share = None if self._began is None else (end - start) / (end - self._ended)
        self._began = start if self._began is None else self._began
        self._ended, self._cost = end, end - start
        self._spent += self._cost
        return share

    @property
    def share(self) -> float:
        """Of the time since the first measurement began, what measuring took; 0 before."""
        if self._began is None:
            return 0.0
        return self._spent / (time.perf_counter() - self._began)

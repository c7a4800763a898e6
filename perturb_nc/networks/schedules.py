"""Learning rates as functions of the step, so that a resumed run needs no scheduler's state."""

import math
from collections.abc import Sequence

SCHEDULES = ("milestones", "one_cycle")
_RISE, _START, _END = 0.3, 25.0, 1e4  # share of steps; peak/start; start/end


def milestones(epoch: int, *, start: float, at: Sequence[int], gamma: float) -> float:
    """The rate of an epoch (from 1): `start` times `gamma` for every milestone passed."""
    return start * gamma ** sum(m < epoch for m in at)


def one_cycle(step: int, total_steps: int, *, peak: float) -> float:
    """The rate of a step (from 0) of total_steps: up to `peak` and down, along half cosines.

    From peak/25 to peak over the first 30 % of the steps, then to peak/250,000 (Smith & Topin 2019,
    with the numbers and rounding of torch.optim.lr_scheduler.OneCycleLR; momentum stays constant).

    Raises:
        ValueError: fewer than 4 steps, which leave no rise.
    """
    if total_steps < 4:
        raise ValueError(f"a one_cycle schedule needs at least 4 steps, got {total_steps}")
    top = _RISE * total_steps - 1
    if step <= top:
        return _half_cosine(peak / _START, peak, step / top)
    return _half_cosine(peak, peak / _START / _END, (step - top) / (total_steps - 1 - top))


def _half_cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

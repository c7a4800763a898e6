"""Time limits and progress, in one meaning for everything that can take long.

time_limit: seconds after which what has been reached is returned, with Status.TIME_LIMIT
progress:   called as progress(done, measure) with how much is done (steps, evaluations,
            layers), and the number that says where it stands: the gradient norm, the residual
            or the time reached, or the number of layers there are
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from perturb_nc.validation import positive

Progress = Callable[[int, float], None]


class OutOfTimeError(Exception):
    """A clock ran out in the middle of what only its caller can end."""


@dataclass(frozen=True)
class Clock:
    """A time limit in seconds from now on, and who is told of every step."""

    limit: float = math.inf
    progress: Progress | None = None
    start: float = field(default_factory=lambda: time.monotonic())

    @classmethod
    def of(cls, time_limit: float, progress: Progress | None) -> "Clock":
        """From the arguments of a verb; infinity is no limit."""
        if time_limit != math.inf:
            time_limit = positive(time_limit, "time_limit")
        return cls(time_limit, progress)

    def silent(self) -> "Clock":
        """The same limit for a part of the work, whose steps are nobody's concern."""
        return replace(self, progress=None)

    def expired(self) -> bool:
        """Whether the limit has passed."""
        return time.monotonic() - self.start >= self.limit

    def left(self) -> float:
        """Seconds left, at least a thousandth."""
        return max(self.limit - (time.monotonic() - self.start), 1e-3)

    def report(self, done: int, measure: float) -> None:
        """Tell how much is done, and where it stands."""
        if self.progress is not None:
            self.progress(done, measure)

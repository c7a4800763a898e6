"""The sliders of the explorer: their stops and the values there."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

_PER_DECADE = 20


@dataclass(frozen=True)
class Scale:
    """The stops of a slider: even in the log, and 0 before the first where that has a meaning."""

    label: str
    first: int
    last: int
    initial: float
    zero: bool = False

    @property
    def values(self) -> list[float]:
        """The value at every stop."""
        count = _PER_DECADE * (self.last - self.first)
        stops = [10 ** (self.first + i / _PER_DECADE) for i in range(count + 1)]
        return [0.0, *stops] if self.zero else stops

    @property
    def start(self) -> int:
        """The stop nearest to the initial value."""
        return self.nearest(self.initial)

    def nearest(self, value: float) -> int:
        """The stop nearest to a value, in the log."""
        if not value:
            return 0
        logs = [abs(math.log(v / value)) if v else math.inf for v in self.values]
        return logs.index(min(logs))


SCALES = {
    "lambda_w": Scale("λ_W: decay of the weight", -4, 1, 0.05),
    "lambda_h": Scale("λ_H: decay of the features", -4, 1, 0.005, zero=True),
    "beta": Scale("β: pull to the reference (1/β, complexity)", -2, 3, 2.0, zero=True),
    "time": Scale("t: flow time on the central path", -2, 2, 0.5, zero=True),
}


def setting_at(stops: Mapping[str, int]) -> tuple[dict[str, float], float]:
    """(λ_W, λ_H, β) and the flow time at the stops of the sliders."""
    at = {name: scale.values[int(stops[name])] for name, scale in SCALES.items()}
    time = at.pop("time")
    return at, time

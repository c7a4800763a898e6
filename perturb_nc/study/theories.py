"""Theories of depth: from the first layer of a stage, and what else each sees, to every layer."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from perturb_nc.study.chains import equal_steps, on_chain, placed_on_chain
from perturb_nc.study.depth import COMPARED, place
from perturb_nc.study.laws import deep_linear, equi_separation, load_curve
from perturb_nc.study.quantities import log_ratio
from perturb_nc.study.rivals import (
    Prediction,
    Stage,
    interpolation,
    local,
    shrinkage,
    unchanged,
)
from perturb_nc.study.sample_paths import placed_on_samples
from perturb_nc.study.straight_line import (
    straight_line,
    straight_line_displacement,
    straight_line_placed,
)
from perturb_nc.theory.clock import OutOfTimeError

_STARTS = (-2.0, 2.0, -6.0)  # log2 of λ_W; the later ones only where the first places no layer
_STEPS = (2.0, 1.0, 0.5, 0.25, 0.125)
_LIMITS = (-6.0, 6.0)
_COARSE = 1.0  # the least step of a second parameter
_RTOL = 1e-4  # of the path
_DECAY = (-6.0, -14.0, 2.0)  # log2 of the decay of every layer: where it starts, and its limits


@dataclass(frozen=True)
class Theory:
    """A theory of depth, with what it sees.

    Attributes:
        predict: from a stage whose hidden layers are to be predicted (`Stage.hide`).
        sees: of the measurements, in words.
        places: what it is told of a hidden layer itself: "" (nothing), "metric" (the placing one)
            or "means" (how far they are on their way).
        is_naive: whether it says nothing of why.
        is_curve: whether it draws each metric through its own values at other layers, rather than
            to say what becomes of the features.
    """

    predict: Callable[[Stage], Prediction]
    sees: str
    places: str = ""
    is_naive: bool = False
    is_curve: bool = False


def central_path(stage: Stage) -> Prediction:
    """The central path from the first layer, λ_W fitted to the layers that are seen (λ_H = 0)."""

    def at(lambda_w: float) -> Prediction:
        """What the path of this λ_W predicts."""
        clock = stage.clock.silent()
        if stage.start is not None:
            return Prediction.of(placed_on_samples(stage, lambda_w, clock))
        placed = place(stage, lambda_w, lambda_h=0.0, rtol=_RTOL, clock=clock)
        reached = {name: path for name, path in placed.items() if path is not None}
        return Prediction.of({name: path.statistics(-1) for name, path in reached.items()})

    return _fitted(stage, "path", at)


def chain_to_optimum(stage: Stage) -> Prediction:
    """The straight line to the predicted optimum of (1), in equal steps (λ_H = 0).

    λ_W is fitted to the layers that are seen, β is that which gives the last layer its placing
    metric. Parameters: λ_W, β and the spectral ratio of the certificate.
    """
    return _fitted(stage, "chain", partial(on_chain, stage, equal_steps))


def chain_with_decay(stage: Stage) -> Prediction:
    """The chain in equal steps with a decay λ of the features of every layer, fitted as λ_W is."""
    return _fitted(stage, "chain_decay", partial(on_chain, stage, equal_steps), _DECAY)


def chain_placed(stage: Stage) -> Prediction:
    """The line of `chain_to_optimum`, a layer where the line has its placing metric."""
    return _fitted(stage, "chain_placed", partial(on_chain, stage, placed_on_chain))


def _fitted(
    stage: Stage,
    name: str,
    at: Callable[..., Prediction],
    *more: tuple[float, float, float],
) -> Prediction:
    """The member of a family in λ_W that is nearest to the layers seen, in all other metrics.

    Found by steps downhill on one grid, whatever is hidden, so that views of a stage share what has
    been computed: of a factor 4 first, each half as long in the log as the one before, of 9 % last.
    `more` is log2 of a second parameter, found to a factor 2: where it starts, and its limits.
    """
    seen = [n for n in stage.names[1:] if n in stage.layers]
    others = [m for m in COMPARED if m != stage.metric]
    limits = [_LIMITS, *(limit for _, *limit in more)]

    def member(point: tuple[float, ...]) -> Prediction:
        key = name, point
        if key not in stage.memory:
            made = None if stage.clock.expired() else at(*(2.0**exponent for exponent in point))
            if made is None or stage.clock.expired():  # what was stopped on the way is none
                raise OutOfTimeError
            stage.memory[key] = made
        found: Prediction = stage.memory[key]
        return found

    def misfit(point: tuple[float, ...]) -> float:
        metrics, squares = member(point).metrics, 0.0
        for layer in seen:
            if layer not in metrics:  # not placed: off by a factor e
                squares += len(others)
                continue
            errors = [
                log_ratio(getattr(metrics[layer], m), getattr(stage.measured[layer], m))
                for m in others
            ]
            squares += float(np.nansum(np.square(errors)))
        return squares

    def around(point: tuple[float, ...], step: float) -> list[tuple[float, ...]]:
        return [
            (*point[:i], end, *point[i + 1 :])
            for i, (low, high) in enumerate(limits if step >= _COARSE else limits[:1])
            for end in (point[i] - step, point[i] + step)
            if low <= end <= high
        ]

    nothing = len(others) * len(seen)
    starts = [(start, *(second for second, *_ in more)) for start in _STARTS]
    best = next((point for point in starts if misfit(point) < nothing), None)
    if best is None:
        return Prediction({}, {})
    for step in _STEPS:
        better = [best]
        while better:
            better = [point for point in around(best, step) if misfit(point) < misfit(best)]
            best = min(better, key=misfit, default=best)
    found = member(best)
    fitted = dict(zip(("lambda_w", "layer_decay"), (2.0**x for x in best), strict=False))
    return Prediction(
        found.metrics, found.spectra, found.statistics, frozenset(seen), fitted | found.parameters
    )


# Every theory and naive rival by name.
THEORIES: dict[str, Theory] = {
    "central_path": Theory(
        central_path, "first layer; other metrics of the other layers, for λ_W", "metric"
    ),
    "chain": Theory(
        chain_to_optimum,
        "first layer; placing metric of the last; other metrics of the other layers, for λ_W",
    ),
    "chain_decay": Theory(
        chain_with_decay,
        "first layer; placing metric of the last; other metrics of the other layers, for λ_W and λ",
    ),
    "chain_placed": Theory(
        chain_placed,
        "first layer; placing metric of the last; other metrics of the other layers, for λ_W",
        "metric",
    ),
    "straight_line": Theory(straight_line, "first and last layer with their cross-covariance"),
    "straight_line_displacement": Theory(
        straight_line_displacement, "first and last layer with their cross-covariance", "means"
    ),
    "straight_line_placed": Theory(
        straight_line_placed, "first and last layer with their cross-covariance", "metric"
    ),
    "equi_separation": Theory(
        equi_separation, "the same metric at all other layers", is_curve=True
    ),
    "load_curve": Theory(load_curve, "the same metric at all other layers", is_curve=True),
    "deep_linear": Theory(deep_linear, "ÑC1 and discrimination at all other layers", is_curve=True),
    "shrinkage": Theory(shrinkage, "first layer", "metric", is_naive=True),
    "interpolation": Theory(
        interpolation, "the same metric at the first and the last layer", is_naive=True
    ),
    "local": Theory(local, "the same metric at the layers before and after", is_naive=True),
    "unchanged": Theory(unchanged, "the same metric at the layer before", is_naive=True),
}
"""All theories on the bench by their names, the naive rivals last."""

"""Theories of depth: from the first layer of a stage, and what else each sees, to every layer."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import scipy  # its parts load, slowly, when they are first used
from torch import Tensor

from perturb_nc.metrics import table as metric_functions
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
from perturb_nc.study.sample_paths import SampleChain, placed_on_samples, sample_chain
from perturb_nc.study.straight_line import (
    straight_line,
    straight_line_displacement,
    straight_line_placed,
)
from perturb_nc.theory.clock import OutOfTimeError
from perturb_nc.theory.flow.chain import Chain, chain

_STARTS = (-2.0, 2.0, -6.0)  # log2 of λ_W; the later ones only where the first places no layer
_STEPS = (2.0, 1.0, 0.5, 0.25, 0.125)
_LIMITS = (-6.0, 6.0)
_RTOL = 1e-4  # of the path
_TOL = 1e-6  # of the chain
_BETAS = (-14.0, 14.0)  # log of the chain's β
_NEAR = (0.0, 0.0)  # where the search for it starts


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
    return _fitted(stage, "chain", partial(_chain, stage))


def _chain(stage: Stage, lambda_w: float) -> Prediction:
    later = stage.names[1:]
    metric, wanted = getattr(metric_functions, stage.metric), stage.value(later[-1])
    found: dict[float, Chain | SampleChain] = {}

    @cache
    def excess(log_beta: float) -> float:
        # Equal steps, each of β times their number, from the weight of the nearest β.
        near = min(found, key=lambda at: abs(at - log_beta), default=None)
        weight = None if near is None else found[near].solution.weight
        found[log_beta] = _chained(stage, lambda_w, math.exp(log_beta), weight)
        value = metric(found[log_beta].solution.statistics).item()
        return math.log(value / wanted) if value > 0 else -math.inf

    # The metric falls with 1/β, from the first layer's value on. The search starts at the β of the
    # nearest λ_W.
    known = stage.memory.setdefault("log_beta", {})
    low = high = min(known.items(), key=lambda at: abs(at[0] - math.log(lambda_w)), default=_NEAR)[
        1
    ]
    step = 0.5
    while excess(high) < 0:
        low, high, step = high, high + step, 2 * step
        if high > _BETAS[1]:
            return Prediction({}, {})
    while excess(low) > 0:
        high, low, step = low, low - step, 2 * step
        if low < _BETAS[0]:
            return Prediction({}, {})
    if not math.isfinite(excess(low)):
        return Prediction({}, {})
    log_beta = scipy.optimize.brentq(excess, low, high, xtol=1e-3, rtol=1e-5)
    best = found[log_beta]
    if not best.solution.status.is_done:
        return Prediction({}, {})
    known[math.log(lambda_w)] = log_beta
    return Prediction.of(
        {name: best.statistics(i) for i, name in enumerate(later)},
        beta=math.exp(log_beta),
        spectral_ratio=best.solution.certificate.spectral_ratio,
    )


def _chained(
    stage: Stage, lambda_w: float, beta: float, weight: Tensor | None
) -> Chain | SampleChain:
    """The chain with this β as a whole, under the loss of the stage."""
    steps = len(stage.names) - 1
    options: dict[str, Any] = {"lambda_w": lambda_w, "tol": _TOL, "initial_weight": weight}
    if stage.start is not None:
        return sample_chain(stage.start, beta=beta, length=steps, **options)
    betas = [steps * beta] * steps
    return chain(stage.layers[stage.names[0]], lambda_h=0.0, betas=betas, **options)


def _fitted(stage: Stage, name: str, at: Callable[[float], Prediction]) -> Prediction:
    """The member of a family in λ_W that is nearest to the layers seen, in all other metrics.

    Found by steps downhill on one grid, whatever is hidden, so that views of a stage share what has
    been computed: of a factor 4 first, each half as long in the log as the one before, of 9 % last.
    """
    seen = [n for n in stage.names[1:] if n in stage.layers]
    others = [m for m in COMPARED if m != stage.metric]

    def member(exponent: float) -> Prediction:
        key = name, exponent
        if key not in stage.memory:
            made = None if stage.clock.expired() else at(2.0**exponent)
            if made is None or stage.clock.expired():  # what was stopped on the way is none
                raise OutOfTimeError
            stage.memory[key] = made
        found: Prediction = stage.memory[key]
        return found

    def misfit(exponent: float) -> float:
        metrics, squares = member(exponent).metrics, 0.0
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

    nothing = len(others) * len(seen)
    best = next((at for at in _STARTS if misfit(at) < nothing), None)
    if best is None:
        return Prediction({}, {})
    for step in _STEPS:
        around = [best]
        while around:
            ends = best - step, best + step
            around = [x for x in ends if _LIMITS[0] <= x <= _LIMITS[1] and misfit(x) < misfit(best)]
            best = min(around, key=misfit, default=best)
    found = member(best)
    return Prediction(
        found.metrics,
        found.spectra,
        found.statistics,
        frozenset(seen),
        {"lambda_w": 2.0**best, **found.parameters},
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

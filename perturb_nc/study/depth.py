"""The layers of a network placed on the central path from one of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import scipy  # its parts load, slowly, when they are first used
from numpy.typing import NDArray

from perturb_nc import metrics as metric_functions
from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.flow.central_path import central_path_flow
from perturb_nc.theory.flow.path import FlowPath
from perturb_nc.theory.status import Status

CALIBRATING = ("nc1_trace", "nc1_span", "nc1", "cdnv")
COMPARED = ("nc1_trace", "nc1_span", "nc1", "cdnv", "nc2_etf", "nc2_equiangular")
MODELS = ("path", "shrinkage", "interpolation")
_HORIZON = 300.0  # flow time after which a layer counts as out of reach


@dataclass(frozen=True, eq=False)
class DepthCalibration:
    """Layers on the path, and what the path and two rivals predict for them.

    Attributes:
        metric: the one metric by which every layer was placed.
        lambda_w, lambda_h: of the path.
        start: the layer the path starts from.
        times: layer → flow time; NaN where the path does not come by its value of the metric,
            and then there is no prediction of the path.
        measured: layer → metrics measured.
        predicted: model → layer → metrics, for "path", "shrinkage" (Σ_W of the start layer times
            one factor, by the same metric) and "interpolation" (linear in the log of each metric
            between the start and the last layer, both measured).
        statistics: model → layer → class statistics predicted, for "path" and "shrinkage".
    """

    metric: str
    lambda_w: float
    lambda_h: float
    start: str
    times: dict[str, float]
    measured: dict[str, CollapseMetrics]
    predicted: dict[str, dict[str, CollapseMetrics]]
    statistics: dict[str, dict[str, ClassStatistics]]

    @property
    def placed(self) -> list[str]:
        """Layers that the path comes by."""
        return [name for name, time in self.times.items() if not math.isnan(time)]

    def errors(
        self, model: str = "path", *, metric: str, layers: Sequence[str] | None = None
    ) -> dict[str, float]:
        """|log(predicted/measured)| of a metric at every layer placed (or those named).

        NaN where either is 0, as angles between two classes are.
        """
        return {
            name: abs(_log_ratio(self.predicted[model][name], self.measured[name], metric))
            for name in (self.placed if layers is None else layers)
        }


def calibrate_depth(
    layers: Mapping[str, ClassStatistics],
    *,
    lambda_w: float | None = None,
    lambda_h: float = 0.0,
    metric: str = "nc1_trace",
    start: str | None = None,
    fit: Sequence[str] | None = None,
    rtol: float = 1e-6,
) -> DepthCalibration:
    """Place the layers of one width on the central path from the first (or any) of them.

    One (λ_W, λ_H) serves the network; each later layer gets the time at which the path has its
    value of ONE metric. All other metrics are then predictions. λ_W is taken as given (K times the
    last layer's weight decay, for the squared loss), or fitted to the other metrics of the layers
    named in `fit` by Gauss-Newton in log λ_W; the layers not named are then held out.

    Args:
        layers: name → class statistics in order of depth, one dimension and one set of classes.
        lambda_w: λ_W > 0, or None to fit it.
        lambda_h: λ_H >= 0.
        metric: "nc1_trace", "nc1_span", "nc1" or "cdnv". The first and the last include the
            variability outside the span of the class means, which in networks need not fall.
        start: layer the path starts from; the first by default. Earlier layers are left out.
        fit: layers whose other metrics decide λ_W; all by default.

    Raises:
        ValueError: a metric or layer that is not known, fewer than two layers, dimensions or
            classes that differ.

    Source: DESIGN §4.6.
    """
    names = _checked(layers, metric, start, fit)
    later = names[1:]
    measured = {name: collapse_metrics(layers[name]) for name in names}
    statistics = layers[names[0]]

    def place(value: float, tolerance: float = rtol) -> dict[str, FlowPath | None]:
        targets = {name: measured[name] for name in later}
        return _place(statistics, value, lambda_h, metric, targets, tolerance)

    if lambda_w is None:
        place_roughly = partial(place, tolerance=max(rtol, 1e-4))
        lambda_w = _fit(place_roughly, measured, list(fit or later), metric)
    placed = place(lambda_w)
    times = {
        name: math.nan if path is None else float(path.times[-1]) for name, path in placed.items()
    }
    found = {
        "path": {name: p.statistics(-1) for name, p in placed.items() if p is not None},
        "shrinkage": {name: _shrunk(statistics, measured[name], metric) for name in later},
    }
    predicted = {
        model: {name: collapse_metrics(s) for name, s in of.items()} for model, of in found.items()
    }
    return DepthCalibration(
        metric=metric,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        start=names[0],
        times=times,
        measured=measured,
        predicted={**predicted, "interpolation": _interpolated(measured, names)},
        statistics=found,
    )


_ZERO = 1e-12  # a metric below this is rounding


def _place(
    statistics: ClassStatistics,
    lambda_w: float,
    lambda_h: float,
    metric: str,
    targets: Mapping[str, CollapseMetrics],
    rtol: float,
) -> dict[str, FlowPath | None]:
    """The path up to each layer's value of the metric, or None where it does not get there."""
    placed: dict[str, FlowPath | None] = dict.fromkeys(targets)
    path = central_path_flow(
        statistics, lambda_w=lambda_w, lambda_h=lambda_h, times=[0.0], rtol=rtol
    )
    here = getattr(path.metrics[0], metric)
    # The metric falls along the path: largest values first, each from the one before.
    for name in sorted(targets, key=lambda n: -getattr(targets[n], metric)):
        value = getattr(targets[name], metric)
        if value >= here:
            continue
        path = path.from_last([_HORIZON], until={metric: value})
        if path.status is not Status.EVENT:
            break
        placed[name], here = path, value
    return placed


def _fit(
    place: Callable[[float], dict[str, FlowPath | None]],
    measured: Mapping[str, CollapseMetrics],
    fit: Sequence[str],
    metric: str,
) -> float:
    """λ_W by least squares on log(predicted/measured) of all other metrics compared."""
    # A metric that is 0 (angles between two classes) or undefined says nothing.
    others = [
        m for m in COMPARED if m != metric and all(getattr(measured[n], m) > _ZERO for n in fit)
    ]

    def residuals(log_lambda: NDArray[np.float64]) -> NDArray[np.float64]:
        placed = place(float(np.exp(log_lambda[0])))
        values = []
        for name in fit:
            path = placed[name]
            # A layer out of reach counts as wrong by a factor e.
            values += [
                1.0 if path is None else _log_ratio(path.metrics[-1], measured[name], other)
                for other in others
            ]
        return np.array(values)

    bounds = (math.log(1e-6), math.log(1e2))
    found = scipy.optimize.least_squares(
        residuals, [math.log(0.05)], bounds=bounds, diff_step=1e-3, xtol=1e-4
    )
    return float(np.exp(found.x[0]))


def _log_ratio(predicted: CollapseMetrics, measured: CollapseMetrics, metric: str) -> float:
    above, below = getattr(predicted, metric), getattr(measured, metric)
    return math.log(above / below) if above > _ZERO and below > _ZERO else math.nan


def _shrunk(statistics: ClassStatistics, target: CollapseMetrics, metric: str) -> ClassStatistics:
    """The start layer with Σ_W times one factor, so that the metric is the target's."""
    now = getattr(metric_functions, metric)(statistics)
    factor = getattr(target, metric) / now
    return statistics.moved(statistics.means, factor * statistics.within)


def _interpolated(
    measured: Mapping[str, CollapseMetrics], names: Sequence[str]
) -> dict[str, CollapseMetrics]:
    """Each metric linear in its log between the first and the last layer, by layer number."""
    first, last = (measured[name].as_dict() for name in (names[0], names[-1]))
    result = {}
    for number, name in enumerate(names[1:], start=1):
        share = number / (len(names) - 1)
        values = {
            m: first[m] ** (1 - share) * last[m] ** share if first[m] > 0 else math.nan
            for m in first
        }
        result[name] = CollapseMetrics(**values)
    return result


def _checked(
    layers: Mapping[str, ClassStatistics],
    metric: str,
    start: str | None,
    fit: Sequence[str] | None,
) -> list[str]:
    """The names of the layers from `start` on; ValueError when the arguments do not fit."""
    names = list(layers)
    if metric not in CALIBRATING:
        raise ValueError(f"metric must be one of {', '.join(CALIBRATING)}, got {metric!r}")
    for name in [*(fit or []), *([] if start is None else [start])]:
        if name not in layers:
            raise ValueError(f"there is no layer {name!r}; layers are {names}")
    names = names[0 if start is None else names.index(start) :]
    if len(names) < 2:
        raise ValueError(f"layers must hold at least two from start on, got {names}")
    if fit is not None and (not fit or not set(fit) <= set(names[1:])):
        raise ValueError(f"fit must name layers after {names[0]!r}, got {list(fit)}")
    first = layers[names[0]]
    for name in names[1:]:
        if layers[name].means.shape != first.means.shape:
            raise ValueError(
                f"layers must share one shape (K, d): {names[0]!r} has "
                f"{tuple(first.means.shape)}, {name!r} {tuple(layers[name].means.shape)}; "
                "pass layers of equal width"
            )
    return names

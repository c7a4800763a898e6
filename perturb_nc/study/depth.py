"""The layers of a network placed on the central path from one of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import scipy  # its parts load, slowly, when they are first used
from numpy.typing import NDArray

from perturb_nc.metrics.table import READ_BY_WEIGHT, CollapseMetrics
from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.study.quantities import log_ratio
from perturb_nc.study.rivals import RIVALS, Prediction, Stage
from perturb_nc.summary import Tabular
from perturb_nc.theory.clock import Clock, OutOfTimeError, Progress
from perturb_nc.theory.flow.central_path import central_path_flow
from perturb_nc.theory.flow.path import FlowPath
from perturb_nc.theory.status import Status
from perturb_nc.validation import named, nonnegative, positive

CALIBRATING = ("nc1_trace", "nc1_span", "nc1", "cdnv")
PLACING = "nc1_span"  # by default: docs/depth.md has the evidence
COMPARED = ("nc1_trace", "nc1_span", "nc1", "cdnv", "nc2_etf", "nc2_equiangular")
_HORIZON = 300.0  # flow time after which a layer counts as out of reach
_BOUNDS = (1e-6, 1e2)  # of a fitted λ_W
_AT_END = 1e-2  # of its log: a fit as near to a bound as this is at it
_STARTS = (0.05, 1e-3, 1e-2, 0.5, 5.0)  # the later ones only where the first places no layer

Places = dict[str, FlowPath | None]


@dataclass(frozen=True, eq=False, repr=False)
class DepthCalibration(Tabular):
    """Layers on the path, and what path and rivals predict for them.

    Attributes:
        stage: the layers from the start on, with the metric that placed them.
        lambda_w, lambda_h: of the path; λ_W is NaN where nothing could be fitted to.
        times: layer → flow time; NaN where the path does not come by its value of the metric,
            and then there is no prediction of the path.
        path: what the path predicts, at the layers placed.
        at_bound: {"lambda_w": "low" or "high"} where the fit ran to that end of its range, 1e-6 to
            1e2.
        status: CONVERGED, or why the fit is none: AT_BOUND, MAX_STEPS, TIME_LIMIT, NOT_PLACED.
    """

    stage: Stage
    lambda_w: float
    lambda_h: float
    times: dict[str, float]
    path: Prediction
    at_bound: dict[str, str]
    status: Status

    _index = ("layer", "side")

    def _columns(self) -> dict[str, list[Any]]:
        sides = {"measured": self.measured}
        sides |= {name: prediction.metrics for name, prediction in self.predictions.items()}
        rows = [
            {"layer": layer, "side": side, "flow_time": self.times.get(layer, 0.0)}
            | metrics[layer].as_dict()
            for layer in self.measured
            for side, metrics in sides.items()
            if layer in metrics
        ]
        return {name: [row[name] for row in rows] for name in rows[0] if name not in READ_BY_WEIGHT}

    def _summary(self) -> dict[str, object]:
        return {
            "layers": len(self.measured),
            "placed": len(self.placed),
            "start": self.start,
            "metric": self.metric,
            "lambda_w": self.lambda_w,
            "lambda_h": self.lambda_h,
            "last_time": max((self.times[n] for n in self.placed), default=math.nan),
            "at_bound": self.at_bound,
            "status": self.status,
        }

    @property
    def metric(self) -> str:
        """The one metric by which every layer was placed."""
        return self.stage.metric

    @property
    def start(self) -> str:
        """The layer that the path starts from."""
        return self.stage.names[0]

    @property
    def measured(self) -> dict[str, CollapseMetrics]:
        """Metrics of the layers, from the start on."""
        return self.stage.measured

    @property
    def placed(self) -> list[str]:
        """Layers that the path comes by."""
        return [name for name, time in self.times.items() if not math.isnan(time)]

    @cached_property
    def predictions(self) -> dict[str, Prediction]:
        """Of the "path", and of the rivals, which know the same layers."""
        return {"path": self.path} | {name: rival(self.stage) for name, rival in RIVALS.items()}


def calibrate_depth(
    layers: Mapping[str, ClassStatistics],
    *,
    lambda_w: float | None = None,
    lambda_h: float = 0.0,
    metric: str = PLACING,
    start: str | None = None,
    fit: Sequence[str] | None = None,
    rtol: float = 1e-6,
    time_limit: float = math.inf,
    progress: Progress | None = None,
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
        metric: "nc1_span", "nc1", "nc1_trace" or "cdnv". The last two include the variability
            outside the span of the class means, which in networks need not fall.
        start: layer the path starts from; the first by default. Earlier layers are left out.
        fit: layers whose other metrics decide λ_W; all by default.
        time_limit: seconds after which the best λ_W so far is returned, and the layers placed with
            it, with TIME_LIMIT.
        progress: called as progress(evaluations, size of the residual) while λ_W is fitted, and as
            progress(layers, flow time) for those placed where it is given.

    Raises:
        ValueError: a metric or layer that is not known, fewer than two layers, dimensions or
            classes that differ.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> first = pnc.ClassStatistics.from_features(torch.eye(3, 5)[labels] + 0.2 * noise, labels)
        >>> path = pnc.central_path_flow(first, lambda_w=0.05, lambda_h=0, times=[1.0, 2.0])
        >>> layers = {"a": first, "b": path.statistics(0), "c": path.statistics(1)}
        >>> placed = pnc.calibrate_depth(layers, lambda_w=0.05)
        >>> {name: round(time, 3) for name, time in placed.times.items()}
        {'b': 1.0, 'c': 2.0}

    See Also:
        central_path_flow: the path. compare_layers: it beside the other predictions.

    Source: docs §4.6.
    """
    named(layers, "layers", "ClassStatistics")
    for statistics in layers.values():
        check_full(statistics)
    names = _checked(layers, metric, start, fit)
    clock = Clock.of(time_limit, progress)
    stage = Stage({name: layers[name] for name in names}, metric)
    return calibrate_stage(
        stage, lambda_w=lambda_w, lambda_h=lambda_h, fit=fit, rtol=rtol, clock=clock
    )


def calibrate_stage(
    stage: Stage,
    *,
    lambda_w: float | None,
    lambda_h: float,
    fit: Sequence[str] | None = None,
    rtol: float = 1e-6,
    clock: Clock | None = None,
) -> DepthCalibration:
    """`calibrate_depth` of layers that have been measured."""
    lambda_w = None if lambda_w is None else positive(lambda_w, "lambda_w")
    lambda_h = nonnegative(lambda_h, "lambda_h")
    later, status, ends = stage.names[1:], Status.CONVERGED, dict[str, str]()
    given: frozenset[str] = frozenset()
    placed: Places = dict.fromkeys(later)
    clock = clock or Clock()
    if lambda_w is None:
        given = frozenset(fit or later)
        own = partial(place, stage, lambda_h=lambda_h, rtol=max(rtol, 1e-4), clock=clock.silent())
        lambda_w, status, placed = _fit(own, stage, [n for n in later if n in given], clock)
        if status is Status.AT_BOUND:
            ends = {"lambda_w": "low" if lambda_w < 1 else "high"}
        clock = clock.silent()
    if not math.isnan(lambda_w) and status is not Status.TIME_LIMIT:
        placed = place(stage, lambda_w, lambda_h=lambda_h, rtol=rtol, clock=clock)
        if clock.expired():
            status = Status.TIME_LIMIT
    reached = {name: path for name, path in placed.items() if path is not None}
    times = {
        name: float(reached[name].times[-1]) if name in reached else math.nan for name in later
    }
    return DepthCalibration(
        stage=stage,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        times=times,
        path=Prediction.of({name: p.statistics(-1) for name, p in reached.items()}, given),
        at_bound=ends,
        status=status if reached or status is Status.TIME_LIMIT else Status.NOT_PLACED,
    )


def place(
    stage: Stage, lambda_w: float, *, lambda_h: float, rtol: float, clock: Clock | None = None
) -> Places:
    """The path up to each layer's value of the metric, or None where it does not get there."""
    clock = clock or Clock()
    first, *later = stage.names
    placed: Places = dict.fromkeys(later)
    path = central_path_flow(
        stage.layers[first], lambda_w=lambda_w, lambda_h=lambda_h, times=[0.0], rtol=rtol
    )
    here = stage.value(first)
    # The metric falls along the path: largest values first, each from the one before.
    for name in sorted(later, key=stage.value, reverse=True):
        value = stage.value(name)
        if value >= here:
            continue
        path = path.from_last([_HORIZON], until={stage.metric: value}, time_limit=clock.left())
        if path.status is not Status.EVENT:
            break
        placed[name], here = path, value
        clock.report(sum(p is not None for p in placed.values()), float(path.times[-1]))
    return placed


def _fit(
    place: Callable[[float], Places], stage: Stage, fit: Sequence[str], clock: Clock
) -> tuple[float, Status, Places]:
    """λ_W by least squares on log(predicted/measured) of all other metrics compared; NaN if none.

    A layer out of reach counts as wrong by a factor e. Where all are, there is nothing to descend:
    other starts are tried, and without one that places a layer there is no fit.
    """
    others = _telling(stage, fit)
    nowhere: Places = dict.fromkeys(stage.names[1:])
    known: list[tuple[float, float, Places]] = []  # size of the residual, λ_W

    def residuals(log_lambda: NDArray[np.float64]) -> NDArray[np.float64]:
        placed = place(float(np.exp(log_lambda[0])))
        if clock.expired():
            raise OutOfTimeError
        values = []
        for name in fit:
            path = placed[name]
            values += [
                1.0
                if path is None
                else float(
                    log_ratio(getattr(path.metrics[-1], m), getattr(stage.measured[name], m))
                )
                for m in others
            ]
        size = float(np.linalg.norm(values))
        known.append((size, float(np.exp(log_lambda[0])), placed))
        clock.report(len(known), size)
        return np.array(values)

    first = stage.value(stage.names[0])
    if not others or all(stage.value(name) >= first for name in fit):
        return math.nan, Status.NOT_PLACED, nowhere
    start = next((w for w in _STARTS if any(place(w)[name] is not None for name in fit)), None)
    if start is None:
        late = Status.TIME_LIMIT if clock.expired() else Status.NOT_PLACED
        return math.nan, late, nowhere
    low, high = np.log(_BOUNDS)
    try:
        found = scipy.optimize.least_squares(
            residuals, [math.log(start)], bounds=(low, high), diff_step=1e-3, xtol=1e-4
        )
    except OutOfTimeError:
        _, best, placed = min(known, key=lambda k: k[0], default=(math.inf, math.nan, nowhere))
        return best, Status.TIME_LIMIT, placed
    at = float(found.x[0])
    if found.status <= 0:
        return math.exp(at), Status.MAX_STEPS, nowhere
    at_end = min(at - low, high - at) < _AT_END
    return math.exp(at), Status.AT_BOUND if at_end else Status.CONVERGED, nowhere


def _telling(stage: Stage, fit: Sequence[str]) -> list[str]:
    """The metrics compared, but the one that places: 0 (angles of two classes) says nothing."""

    def tells(metric: str) -> bool:
        values = [getattr(stage.measured[name], metric) for name in fit]
        return all(math.isfinite(log_ratio(value, value)) for value in values)

    return [metric for metric in COMPARED if metric != stage.metric and tells(metric)]


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

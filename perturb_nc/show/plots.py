"""Layers, paths and comparisons, drawn on axes; nothing is computed here but metrics.

Every plot takes `ax=` (one axes for each of `metrics`, or none for a new figure), returns an array
of the axes, and can be saved as PDF and SVG: `axes[0].figure.savefig("layers.pdf")`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import colormaps

from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.moments import Moments
from perturb_nc.show.labels import SIDES, literal
from perturb_nc.show.panels import (
    ALONG,
    AxesArray,
    by_layer,
    drawn,
    legend,
    logarithmic,
    panels,
)
from perturb_nc.study.depth import DepthCalibration
from perturb_nc.study.predict import LayerPrediction
from perturb_nc.theory.flow.cascade import Cascade, effective_complexity
from perturb_nc.theory.flow.path import FlowPath, scaled_traces
from perturb_nc.validation import instance, named

TRACES = ("scaled_within_trace", "scaled_between_trace")
_MEASURED, _OPTIMUM, _PATH = SIDES["measured"], SIDES["optimum"], SIDES["path"]
_SAID = {"path": "central path", "pair": "optimum from the layer before"}
Measured = Moments | CollapseMetrics | LayerPrediction


def plot_layers(
    layers: Mapping[str, Measured], *, metrics: Sequence[str] = ALONG, ax: Any = None
) -> AxesArray:
    """Metrics by depth as measured, and what the model predicts after each layer.

    A prediction is drawn at the layer that follows, where the measurement to compare it with
    stands, and is joined to the layer it starts from.

    Args:
        layers: name → `ClassStatistics` or `SpanStatistics`, `CollapseMetrics`, or a prediction
            of `perturb_nc.study.predict_layers`, in order of depth.
        metrics: names of fields of `CollapseMetrics`, an axes each.
        ax: the axes; by default those of a new figure.

    Raises:
        ValueError: no layers, or not as many axes as metrics.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> solution = pnc.minimize(
        ...     pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        ... )
        >>> layers = {"a": statistics, "b": solution.statistics}
        >>> axes = pnc.plot_layers(layers, metrics=["nc1", "nc2_etf"])
        >>> len(axes)
        2

    See Also:
        plot_comparison: with the central path and rivals.
    """
    named(layers, "layers", "ClassStatistics, CollapseMetrics or LayerPrediction")
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    names, ends = list(layers), list(layers.values())
    measured = [_measured(end) for end in ends]
    axes = panels(metrics, ax)
    for axis, metric in zip(axes, metrics, strict=True):
        here = [getattr(m, metric) for m in measured]
        marks = [*names]
        after = [getattr(e.predicted, metric) for e in ends if isinstance(e, LayerPrediction)]
        if len(after) == len(ends):
            for place, pair in enumerate(zip(here, after, strict=True)):
                axis.plot([place, place + 1], pair, color=_OPTIMUM.light, lw=1, alpha=0.6)
            label = "predicted from the layer before"
            places = range(1, len(names) + 1)
            axis.plot(places, after, **(drawn(_OPTIMUM) | {"ls": ""}), label=label)
            marks.append("(next)")
        axis.plot(range(len(names)), here, **drawn(_MEASURED), label="measured")
        logarithmic(axis)
        by_layer(axis, marks)
    return legend(axes)


def plot_path(
    path: FlowPath | Cascade,
    *,
    layers: DepthCalibration | None = None,
    metrics: Sequence[str] = ALONG,
    ax: Any = None,
) -> AxesArray:
    """Metrics along a path, with the layers placed on it.

    Args:
        path: of `central_path_flow`, or of `cascade`, whose time is its complexity so far.
        layers: to draw at their times, as measured; those beyond the path are not.
        metrics: names of fields of `CollapseMetrics`; of a path "scaled_within_trace" and
            "scaled_between_trace" too, e^{2λ_H t} tr Σ_W and e^{2λ_H t} tr Σ_B.
        ax: one axes for each of `metrics`; by default those of a new figure.

    Raises:
        ValueError: not as many axes as metrics, traces of a cascade.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> path = pnc.central_path_flow(statistics, lambda_w=0.05, lambda_h=0.0, times=[0.1, 1.0])
        >>> (axis,) = pnc.plot_path(path, metrics=["nc1"])
        >>> axis.get_xlabel()
        'flow time t'

    See Also:
        central_path_flow, cascade: what it takes. calibrate_depth: layers on the path.
    """
    instance(path, (FlowPath, Cascade), "path", "central_path_flow or cascade gives one")
    times, values, side = _along(path, metrics)
    axes = panels(metrics, ax)
    for axis, metric in zip(axes, metrics, strict=True):
        style = drawn(side) | {"marker": "" if len(times) > 12 else side.marker, "ls": "-"}
        axis.plot(times, values[metric], **style, label=_label(path))
        if len(times) > 1 and isinstance(path, FlowPath):
            # Logarithmic, but with the start at t = 0 on it.
            linear = next(time for time in times if time > 0)
            axis.set_xscale("symlog", linthresh=linear, linscale=0.5)
            axis.set_xlim(times[0], times[-1])
        axis.set_xlabel("flow time t" if isinstance(path, FlowPath) else "complexity Σ 1/β")
        if layers is not None and metric not in TRACES:
            _mark_layers(axis, layers, metric, times[-1])
    return legend(axes)


def plot_comparison(
    comparison: xr.Dataset | DepthCalibration,
    *,
    metrics: Sequence[str] = ALONG,
    models: Sequence[str] | None = None,
    ax: Any = None,
) -> AxesArray:
    """Metrics by layer: measured (with intervals, if there are), and as each model predicts them.

    Args:
        comparison: of `compare_layers`, or of `calibrate_depth`.
        metrics: quantities that it holds; of a calibration "flow_time" too.
        models: which to draw, of "path", "pair", "shrinkage", "interpolation", "unchanged"; by
            default all with a prediction.
        ax: one axes for each of `metrics`; by default those of a new figure.

    Raises:
        ValueError: a metric or model that it does not hold, or not as many axes as metrics.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> path = pnc.central_path_flow(statistics, lambda_w=0.05, lambda_h=0.0, times=[1.0, 2.0])
        >>> layers = {"a": statistics, "b": path.statistics(0), "c": path.statistics(1)}
        >>> placed = pnc.calibrate_depth(layers, lambda_w=0.05)
        >>> (axis,) = pnc.plot_comparison(placed, metrics=["nc1"])
        >>> [label.get_text() for label in axis.get_xticklabels()]
        ['a', 'b', 'c']

    See Also:
        compare_layers, calibrate_depth: what it takes. write_report: a whole page.
    """
    remedy = "compare_layers or calibrate_depth gives one"
    instance(comparison, (xr.Dataset, DepthCalibration), "comparison", remedy)
    names, sides = _sides(comparison, metrics)
    chosen = list(sides) if models is None else ["measured", *models]
    if unknown := [model for model in chosen if model not in sides]:
        raise ValueError(f"models must be among {', '.join(sides)}, got {unknown}")
    axes = panels(metrics, ax)
    for axis, metric in zip(axes, metrics, strict=True):
        for side in chosen:
            values = sides[side].get(metric, np.full(len(names), np.nan))
            known = np.isfinite(values).nonzero()[0]
            if len(known):
                label = _SAID.get(side, side)
                axis.plot(known, values[known], **drawn(SIDES[side]), label=label)
        if isinstance(comparison, xr.Dataset) and "interval" in comparison:
            ends = comparison["interval"].sel(quantity=metric)
            low, high = ends.sel(bound="low").values, ends.sel(bound="high").values
            axis.vlines(range(len(names)), low, high, color=_MEASURED.light, lw=1)
        if metric != "flow_time":
            logarithmic(axis)
        by_layer(axis, names)
        axis.set_xlim(-0.4, len(names) - 0.6)
    return legend(axes)


def _measured(layer: Measured) -> CollapseMetrics:
    if isinstance(layer, LayerPrediction):
        return layer.measured
    return layer if isinstance(layer, CollapseMetrics) else collapse_metrics(layer)


def _label(path: FlowPath | Cascade) -> str:
    if isinstance(path, Cascade):
        return "cascade of optima"
    return "central path" if path.beta == 0 else "anchored path"


def _along(
    path: FlowPath | Cascade, metrics: Sequence[str]
) -> tuple[list[float], dict[str, list[float]], Any]:
    """Times, metric → values, and the side that they are drawn as."""
    if isinstance(path, Cascade):
        if traces := [metric for metric in metrics if metric in TRACES]:
            raise ValueError(f"a cascade has no {', '.join(traces)}; leave them out of metrics")
        times = [effective_complexity(path.betas[: i + 1]) for i in range(len(path))]
        along, side = [solution.metrics for solution in path.solutions], _OPTIMUM
        return times, {m: [getattr(each, m) for each in along] for m in metrics}, side
    values = {m: [getattr(each, m) for each in path.metrics] for m in metrics if m not in TRACES}
    if set(metrics) & set(TRACES):
        scaled = scaled_traces(path)
        values |= dict(zip(TRACES, (scaled["within"], scaled["between"]), strict=True))
    return path.times.tolist(), values, _PATH


def _mark_layers(axis: Any, calibration: DepthCalibration, metric: str, last: float) -> None:
    ceiling = last * (1 + 1e-6)  # a layer may lie at the very end
    shown = {name: time for name, time in calibration.times.items() if time <= ceiling}
    for number, (name, time) in enumerate(shown.items()):
        color = colormaps["viridis"](number / len(shown))
        value = getattr(calibration.measured[name], metric)
        label = f"{literal(name)}, measured"
        axis.plot(time, value, "o", color=color, ms=6, mec="white", label=label)


def _sides(
    comparison: xr.Dataset | DepthCalibration, metrics: Sequence[str]
) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Names of the layers, and side → metric → value at each of them."""
    if isinstance(comparison, DepthCalibration):
        sides = ["measured", *comparison.predictions]  # the path has none where nothing is placed
        table = comparison.to_xarray().reindex(layer=list(comparison.measured), side=sides)
        held = [str(name) for name in table]
        found: dict[str, dict[str, Any]] = {
            side: {m: table[m].sel(side=side).values for m in metrics if m in held}
            for side in sides
        }
        for side in sides:
            if side != "path":
                found[side].pop("flow_time", None)
    else:
        held = comparison["quantity"].values.tolist()
        kept = [metric for metric in metrics if metric in held]
        predicted, measured = comparison["predicted"], comparison["measured"]
        known = predicted.notnull().any(("layer", "quantity"))
        found = {"measured": {m: measured.sel(quantity=m).values for m in kept}}
        for model in predicted["model"].values[known.values].tolist():
            part = predicted.sel(model=model)
            found[model] = {m: part.sel(quantity=m).values for m in kept}
        table = comparison
    if unknown := [metric for metric in metrics if metric not in held]:
        raise ValueError(f"metrics must be among {', '.join(held)}, got {unknown}")
    return [str(name) for name in table["layer"].values], found

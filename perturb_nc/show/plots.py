"""Figures from results; nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from perturb_nc.show.labels import LABELS, SIDES, Side, literal
from perturb_nc.study.depth import COMPARED, DepthCalibration
from perturb_nc.study.predict import LayerPrediction
from perturb_nc.theory.flow.path import FlowPath

_MEASURED, _OPTIMUM, _PATH = SIDES["measured"], SIDES["optimum"], SIDES["path"]
_ALONG = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
_TRACES = {
    "within": r"$e^{2\lambda_H t}\,\mathrm{tr}\,\Sigma_W$",
    "between": r"$e^{2\lambda_H t}\,\mathrm{tr}\,\Sigma_B$",
}


def plot_layers(predictions: Mapping[str, LayerPrediction], *, title: str) -> Figure:
    """Metrics by depth, measured, and what the model predicts after each layer.

    The prediction made from a layer is drawn at the layer that follows, where the measurement to
    compare it with stands, and is joined to the layer it starts from.
    """
    names = list(predictions)
    places = range(len(names) + 1)
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).flat
    for axis, metric in zip(axes, _ALONG, strict=True):
        measured = [getattr(p.measured, metric) for p in predictions.values()]
        predicted = [getattr(p.predicted, metric) for p in predictions.values()]
        for place, (start, end) in enumerate(zip(measured, predicted, strict=True)):
            axis.plot([place, place + 1], [start, end], color=_OPTIMUM.light, lw=1, alpha=0.6)
        axis.plot(places[:-1], measured, **_drawn(_MEASURED), label="measured")
        label = "predicted from the layer before"
        axis.plot(places[1:], predicted, **(_drawn(_OPTIMUM) | {"ls": ""}), label=label)
        _style(axis, LABELS[metric].title)
        axis.set_xticks(
            places, [*map(literal, names), "(next)"], rotation=30, ha="right", fontsize=8
        )
    figure.axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def plot_flow(
    path: FlowPath,
    traces: Mapping[str, Sequence[float]],
    calibration: DepthCalibration | None = None,
    *,
    title: str,
) -> Figure:
    """Metrics and `scaled_traces` along a path, with the layers placed on it.

    Args:
        path: from t = 0 on.
        traces: "within" and "between": e^{2λ_H t} tr Σ_W and e^{2λ_H t} tr Σ_B at path.times.
        calibration: layers to draw at their times, as measured; those beyond the path are not.
        title: of the figure.
    """
    figure = Figure(figsize=(12, 6.8), layout="constrained")
    axes = dict(zip((*_ALONG, *_TRACES), figure.subplots(2, 3).T.flat, strict=True))
    times = path.times.tolist()
    for metric in _ALONG:
        values = [getattr(m, metric) for m in path.metrics]
        axes[metric].plot(times, values, color=_PATH.light, lw=1.8, label="central path")
        _style(axes[metric], LABELS[metric].title)
    for trace, name in _TRACES.items():
        axes[trace].plot(times, traces[trace], color=_PATH.light, lw=1.8)
        _style(axes[trace], name)
    for axis in axes.values():
        # Logarithmic, but with the start at t = 0 on it.
        axis.set_xscale("symlog", linthresh=times[1], linscale=0.5)
        axis.set_xlim(0, times[-1])
        axis.set_xlabel("flow time t", fontsize=9)
    if calibration is not None:
        _mark_layers(axes, calibration, times[-1])
    handles, labels = axes["nc1_trace"].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def _mark_layers(axes: Mapping[str, Axes], calibration: DepthCalibration, last: float) -> None:
    ceiling = last * (1 + 1e-6)  # a layer may lie at the very end
    shown = {name: time for name, time in calibration.times.items() if time <= ceiling}
    for number, (name, time) in enumerate(shown.items()):
        color = colormaps["viridis"](number / len(shown))
        for metric in _ALONG:
            value = getattr(calibration.measured[name], metric)
            label = f"{literal(name)}, measured"
            axes[metric].plot(time, value, "o", color=color, ms=6, mec="white", label=label)


def plot_depth(calibration: DepthCalibration, *, title: str) -> Figure:
    """Metrics by layer: measured, the path at the layers' times, and the two rivals."""
    c = calibration
    figure = Figure(figsize=(14.5, 6.8), layout="constrained")
    axes = [figure.add_subplot(2, 4, i + 1) for i in range(len(COMPARED) + 1)]
    names = list(c.measured)
    for axis, metric in zip(axes, COMPARED, strict=False):
        measured = [getattr(m, metric) for m in c.measured.values()]
        axis.plot(range(len(names)), measured, **_drawn(_MEASURED), label="measured")
        for model in ("shrinkage", "interpolation"):
            values = [getattr(c.predictions[model].metrics[name], metric) for name in names[1:]]
            axis.plot(range(1, len(names)), values, **_drawn(SIDES[model]), label=model)
        places = [names.index(name) for name in c.placed]
        values = [getattr(c.path.metrics[name], metric) for name in c.placed]
        axis.plot(places, values, **_drawn(_PATH), label="central path")
        drawn = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
        if drawn.max() > 10 * drawn.min() > 0:
            axis.set_yscale("log")
        chosen = " (places)" if metric == c.metric else ""
        _style(axis, LABELS[metric].title + chosen)
    times = [0.0, *c.times.values()]
    axes[-1].plot(range(len(names)), times, **_drawn(_PATH))
    _style(axes[-1], "flow time t of the layers")
    for axis in axes:
        axis.set_xticks(
            range(len(names)), [*map(literal, names)], rotation=30, ha="right", fontsize=8
        )
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    decays = rf"$\lambda_W$ = {c.lambda_w:.3g}, $\lambda_H$ = {c.lambda_h:.3g}"
    figure.suptitle(f"{title} ({decays})", fontsize=11)
    return figure


def _drawn(side: Side) -> dict[str, Any]:
    return {"color": side.light, "marker": side.marker, "ls": side.line, "ms": 5}


def _style(axis: Axes, title: str) -> None:
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)

"""Paths, and layers placed on them, as tables for the terminal and plain records for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from perturb_nc.show.labels import number, symbol
from perturb_nc.show.terminal import cells_of, layer_table, spread, title_of
from perturb_nc.study.depth import COMPARED, DepthCalibration
from perturb_nc.theory.flow.path import FlowPath

_ALONG_A_PATH = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
_ROWS = 8  # times of a path in its table


def flow_table(path: FlowPath, traces: Mapping[str, Sequence[float]]) -> Table:
    """A few times of a path, first and last among them: metrics, and `scaled_traces`."""
    values = {"lambda_w": path.lambda_w, "lambda_h": path.lambda_h, "beta": path.beta}
    table = Table(title=title_of(values), box=SIMPLE_HEAD)
    symbols = [symbol(m) for m in _ALONG_A_PATH]
    for label in ("t", *symbols, "e^(2λ_H t) trΣ_W", "e^(2λ_H t) trΣ_B"):
        table.add_column(label, justify="right")
    for i in spread(len(path), _ROWS):
        numbers = [number(traces[name][i]) for name in ("within", "between")]
        cells = cells_of(path.metrics[i], _ALONG_A_PATH)
        table.add_row(number(float(path.times[i])), *cells, *numbers)
    return table


def flow_lines(
    path: FlowPath, calibration: DepthCalibration | None, left_out: Sequence[str]
) -> list[str]:
    """How the integration ended, and where the layers lie on the path."""
    cost = path.cost
    lines = [f"{path.status.value}: {cost.steps} steps, {cost.rejected} rejected"]
    if calibration is not None:
        places = [
            f"{name} not on the path" if math.isnan(time) else f"{name} t = {number(time)}"
            for name, time in calibration.times.items()
        ]
        lines.append(f"placed by {symbol(calibration.metric)}: " + ", ".join(places))
    return lines + _left_out(left_out)


def flow_record(
    path: FlowPath, traces: Mapping[str, Sequence[float]], calibration: DepthCalibration | None
) -> dict[str, Any]:
    """A path in plain values, with the layers placed on it."""
    names = path.metrics[0].as_dict()
    layers = {}
    if calibration is not None:
        layers = {
            name: {"time": time, "measured": calibration.measured[name].as_dict()}
            for name, time in calibration.times.items()
        }
    return {
        "lambda_w": path.lambda_w,
        "lambda_h": path.lambda_h,
        "beta": path.beta,
        "status": path.status.name,
        "cost": asdict(path.cost),
        "times": path.times.tolist(),
        "metrics": {name: [getattr(m, name) for m in path.metrics] for name in names},
        "scaled_within_trace": traces["within"],
        "scaled_between_trace": traces["between"],
        "layers": layers,
    }


def depth_table(calibration: DepthCalibration, *, title: str) -> Table:
    """Two rows a layer: metrics measured, and those of the path at the layer's time."""
    c = calibration
    values = {"lambda_w": c.lambda_w, "lambda_h": c.lambda_h}
    labels = ["t", *(symbol(m) for m in COMPARED)]
    table = layer_table(f"{title}: {title_of(values)}, times by {symbol(c.metric)}", labels)
    if not c.status.is_done:
        table.caption = c.status.value
    for name, measured in c.measured.items():
        time = c.times.get(name, 0.0)  # of the start layer, which is not among them
        table.add_row(name, number(time), *cells_of(measured, COMPARED))
        if name != c.start:
            path = c.path.metrics.get(name)  # none where the path does not come by
            predicted = ["–"] * len(COMPARED) if path is None else cells_of(path, COMPARED)
            table.add_row(" on the path", "", *predicted)
    return table


def median_errors(
    calibration: DepthCalibration, fit: Sequence[str]
) -> tuple[dict[str, float], list[str]]:
    """Median of |log(predicted/measured)| by model, and the layers that it is taken over.

    Over the metrics compared but the one that places the layers, at the layers placed, without
    those that λ_W was fitted to by name and without the last, which interpolation is given.
    """
    last = list(calibration.measured)[-1]
    judged = [name for name in calibration.placed if name not in (*fit, last)]
    others, errors = [m for m in COMPARED if m != calibration.metric], {}
    for model, prediction in calibration.predictions.items():
        found = [prediction.errors(calibration.stage, m)[name] for m in others for name in judged]
        known = [error for error in found if not math.isnan(error)]
        errors[model] = median(known) if known else math.nan
    return errors, judged


def depth_lines(
    errors: Mapping[str, float], judged: Sequence[str], left_out: Sequence[str]
) -> list[str]:
    """The median errors, the layers they were taken over, and those left out."""
    values = ", ".join(f"{model} {number(value)}" for model, value in errors.items())
    layers = ", ".join(judged) or "no layer"
    return [f"median |log error| over {layers}: {values}", *_left_out(left_out)]


def depth_record(
    calibration: DepthCalibration,
    errors: Mapping[str, float],
    judged: Sequence[str],
    left_out: Sequence[str],
) -> dict[str, Any]:
    """A calibration in plain values."""
    c = calibration
    models = {model: prediction.metrics for model, prediction in c.predictions.items()}
    return {
        "lambda_w": c.lambda_w,
        "lambda_h": c.lambda_h,
        "metric": c.metric,
        "start": c.start,
        "status": c.status.name,
        "times": c.times,
        "measured": {name: m.as_dict() for name, m in c.measured.items()},
        "predicted": {
            model: {name: m.as_dict() for name, m in layers.items()}
            for model, layers in models.items()
        },
        "median_log_error": dict(errors),
        "judged": list(judged),
        "left_out": list(left_out),
    }


def _left_out(names: Sequence[str]) -> list[str]:
    return [f"left out, not of the start layer's dimension: {', '.join(names)}"] if names else []

"""Results as tables for the terminal and as plain records for JSON."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from perturb_nc.metrics import CollapseMetrics
from perturb_nc.show.labels import number, printable, symbol
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.depth import COMPARED, DepthCalibration
from perturb_nc.study.predict import LayerPrediction, NearPrediction
from perturb_nc.theory.flow.path import FlowPath
from perturb_nc.theory.spectrum import NearCollapseSpectrum
from perturb_nc.theory.status import Status

_OF_A_LAYER = ("nc1_trace", "nc1", "nc2_etf", "nc3_duality", "cdnv")
_ALONG_A_PATH = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
_ROWS = 8  # times of a path in its table
_ACROSS = 5  # layers side by side
_NOTES = 3
_NAME = 20  # characters of a layer's name on one line
_LAYERS = 12  # layers below each other where not all are asked for


def show(*parts: Table | str) -> None:
    """Print tables and lines; lines are left for the terminal to wrap, so that paths copy."""
    console = Console(markup=False, emoji=False)  # names may hold brackets and colons
    for part in parts:
        if isinstance(part, str):
            console.print(printable(part), soft_wrap=True)
        else:
            console.print(_printable_table(part))


def _printable_table(table: Table) -> Table:
    """The table, its names without commands to the terminal."""
    if isinstance(table.title, str):
        table.title = printable(table.title)
    for column in table.columns:
        column.header = printable(str(column.header))
        column._cells = [printable(str(cell)) for cell in column.cells]
    return table


def of_one_width(
    layers: Mapping[str, ClassStatistics], start: str | None
) -> tuple[dict[str, ClassStatistics], list[str]]:
    """The layers from `start` (or the first) on that share its shape, and the names of the rest."""
    names = list(layers)
    if start is not None and start not in layers:
        raise ValueError(f"there is no layer {start!r}; the layers are {names}")
    later = names[0 if start is None else names.index(start) :]
    shape = layers[later[0]].means.shape
    kept = {name: layers[name] for name in later if layers[name].means.shape == shape}
    return kept, [name for name in later if name not in kept]


def first(notes: Sequence[str]) -> list[str]:
    """The first few notes, and how many more there are."""
    more = len(notes) - _NOTES
    return [*notes[:_NOTES], *([f"{more} more such notes: --all"] if more > 0 else [])]


def metrics_tables(
    records: Mapping[str, Mapping[str, float]], *, title: str, everything: bool = False
) -> list[Table]:
    """Metrics down, layers across, as many tables as it takes to keep numbers on one line.

    More layers than fit side by side are summed up first, unless everything is asked for: layers
    down, the main metrics across.
    """
    tables, names = [], list(records)
    if len(names) > _ACROSS and not everything:
        return [_metrics_summary(records, title)]
    for start in range(0, len(names), _ACROSS):
        layers = names[start : start + _ACROSS]
        table = Table(Column("metric", no_wrap=True), title=title, box=SIMPLE_HEAD)
        for name in layers:
            table.add_column(name, justify="right", overflow="fold")
        for metric in records[layers[0]]:
            table.add_row(metric, *(number(records[name][metric]) for name in layers))
        tables.append(table)
    return tables


def _metrics_summary(records: Mapping[str, Mapping[str, float]], title: str) -> Table:
    names = list(records)
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold", max_width=2 * _NAME)
    for metric in _OF_A_LAYER:
        table.add_column(symbol(metric), justify="right", no_wrap=True)
    shown = _spread(len(names), _LAYERS)
    for i in shown:
        table.add_row(names[i], *(number(records[names[i]][m]) for m in _OF_A_LAYER))
    said = f"{len(names)} layers" + (f", {len(shown)} shown" if len(shown) < len(names) else "")
    table.caption = f"{said}; every layer and all {len(records[names[0]])} metrics: --all"
    return table


def prediction_table(
    predictions: Mapping[str, LayerPrediction],
    hyperparameters: Mapping[str, float],
    *,
    everything: bool = False,
) -> Table:
    """Two rows a layer: its metrics as measured, and the model's for the features that follow.

    Of many layers a dozen, first and last among them, unless everything is asked for.
    """
    table = _layer_table(_title(hyperparameters), [symbol(m) for m in _OF_A_LAYER])
    for label in ("r", "gap"):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("optimum")
    names = list(predictions)
    shown = [*range(len(names))] if everything else _spread(len(names), _LAYERS)
    if len(shown) < len(names):
        table.caption = f"{len(names)} layers, {len(shown)} shown; all of them: --all"
    for name, p in ((names[i], predictions[names[i]]) for i in shown):
        table.add_row(name, *_cells(p.measured, _OF_A_LAYER))
        c = p.solution.certificate
        proof = "global" if c.is_global else f"< {c.gap / p.solution.objective:.1%} off"
        if math.isnan(c.gap):
            proof = "–"
        if p.solution.status is not Status.CONVERGED:
            proof += f"; {p.solution.status.value}"
        gap = "–" if math.isnan(c.gap) else f"{max(c.gap, 0.0):.0e}"  # rounding may be below 0
        numbers = (number(c.spectral_ratio), gap)
        table.add_row(" predicted", *_cells(p.predicted, _OF_A_LAYER), *numbers, proof)
    return table


def near_collapse_table(
    predictions: Mapping[str, NearPrediction], hyperparameters: Mapping[str, float]
) -> Table:
    """As `prediction_table`, with what says whether the closed form is to be relied on."""
    table = _layer_table(_title(hyperparameters), [symbol(m) for m in _OF_A_LAYER])
    for label in ("r", "distance", "remainder"):
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("small?")
    for name, p in predictions.items():
        table.add_row(name, *_cells(p.measured, _OF_A_LAYER))
        found = p.solution
        largest = max(found.remainder.values())
        numbers = map(number, (found.certificate.spectral_ratio, found.distance, largest))
        verdict = "yes" if found.is_small else f"no: {found.status.name}"
        cells = (*_cells(p.predicted, _OF_A_LAYER), *numbers, verdict)
        table.add_row(" predicted", *cells)
    reasons = {p.solution.status for p in predictions.values() if not p.solution.is_small}
    table.caption = "\n".join(f"{reason.name}: {reason.value}" for reason in reasons)
    return table


def spectrum_tables(result: NearCollapseSpectrum) -> tuple[Table, Table, str]:
    """Eigenvalues of the whole response, of one diagonal block, and of one off the diagonal."""
    whole = Table("F, dN × dN", "eigenvalue", "multiplicity", box=SIMPLE_HEAD)
    for row in zip(result.names, result.eigenvalues, result.multiplicities, strict=True):
        whole.add_row(row[0], f"{row[1]:.6f}", str(row[2]))
    block = Table("F_kk, dn × dn", "exact", "O(1/β)", "multiplicity", box=SIMPLE_HEAD)
    columns = (result.block_values, result.large_beta_block_values, result.block_multiplicities)
    for name, exact, linear, count in zip(result.block_names, *columns, strict=True):
        block.add_row(name, f"{exact:.6f}", f"{linear:.6f}", str(count))
    off = (
        f"σ_max(F_kj): exact {result.off_block_value:.6f}, "
        f"O(1/β) {result.large_beta_off_block_value:.6f}"
    )
    return whole, block, off


def flow_table(path: FlowPath, traces: Mapping[str, Sequence[float]]) -> Table:
    """A few times of a path, first and last among them: metrics, and `scaled_traces`."""
    values = {"lambda_w": path.lambda_w, "lambda_h": path.lambda_h, "beta": path.beta}
    table = Table(title=_title(values), box=SIMPLE_HEAD)
    symbols = [symbol(m) for m in _ALONG_A_PATH]
    for label in ("t", *symbols, "e^(2λ_H t) trΣ_W", "e^(2λ_H t) trΣ_B"):
        table.add_column(label, justify="right")
    for i in _spread(len(path), _ROWS):
        numbers = [number(traces[name][i]) for name in ("within", "between")]
        cells = _cells(path.metrics[i], _ALONG_A_PATH)
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
    table = _layer_table(f"{title}: {_title(values)}, times by {symbol(c.metric)}", labels)
    if not c.status.is_done:
        table.caption = c.status.value
    for name, measured in c.measured.items():
        time = c.times.get(name, 0.0)  # of the start layer, which is not among them
        table.add_row(name, number(time), *_cells(measured, COMPARED))
        if name != c.start:
            path = c.path.metrics.get(name)  # none where the path does not come by
            predicted = ["–"] * len(COMPARED) if path is None else _cells(path, COMPARED)
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


def _spread(count: int, most: int) -> list[int]:
    """Places of at most so many of them, evenly, first and last among them."""
    return sorted({round(row * (count - 1) / (most - 1)) for row in range(most)})


def _layer_table(title: str, labels: Sequence[str]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold", max_width=_NAME)
    for label in labels:
        table.add_column(label.replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def _title(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def _cells(metrics: CollapseMetrics, names: Sequence[str]) -> list[str]:
    return [number(getattr(metrics, name)) for name in names]


def _left_out(names: Sequence[str]) -> list[str]:
    return [f"left out, not of the start layer's dimension: {', '.join(names)}"] if names else []

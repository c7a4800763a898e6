"""The report's tables, from a comparison: text for people, whole numbers for the download."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr

from perturb_nc.show.labels import LABELS, number, symbol
from perturb_nc.show.report.words import MODELS, quantities_of

_MEASURED = ("nc1_trace", "nc1_span", "nc1", "cdnv", "nc2_etf")
_PARAMETERS = ("lambda_w", "lambda_h", "beta")


@dataclass(frozen=True)
class Cell:
    """One entry.

    Attributes:
        text: what is shown.
        value: what sorts and is downloaded, in full precision; "" when there is none.
        why: why there is none.
        best: it is the smallest of those it is compared with.
    """

    text: str
    value: float | str
    why: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A caption, the names of the columns with an explanation each ("" for none), and the rows.

    The first cell of a row names it.
    """

    caption: str
    columns: dict[str, str]
    rows: list[list[Cell]]


def measured_table(comparison: xr.Dataset) -> Table:
    """Layers by metrics, with intervals."""
    rows = []
    for place, name in enumerate(comparison["layer"].values):
        at = comparison.isel(layer=place)
        row = [_name(name), _whole(at["dim"])]
        for quantity in _MEASURED:
            cell = _number(at["measured"].sel(quantity=quantity), "not defined for this layer")
            if "interval" in comparison and cell.value != "":
                low, high = at["interval"].sel(quantity=quantity, bound=["low", "high"]).values
                if low == low:  # NaN where no interval can be had
                    cell = Cell(f"{cell.text} [{number(low)}, {number(high)}]", cell.value)
            row.append(cell)
        rows.append(row)
    columns = {"layer": "", "d": "dimension of the features"}
    columns |= {symbol(q): LABELS[q].meaning for q in _MEASURED}
    return Table("Measured collapse metrics", columns, rows)


def places_table(comparison: xr.Dataset) -> Table:
    """Where each layer lies on the path of its stage."""
    rows = []
    for place, name in enumerate(comparison["layer"].values):
        at = comparison.isel(layer=place)
        why = str(at["reason"].sel(model="path").values) or "no place on the path"
        row = [_name(name), _whole(at["stage"])]
        row += [_number(at["path_lambda_w"], why), _number(at["flow_time"], why)]
        note = why if math.isnan(float(at["flow_time"])) else ""
        rows.append([*row, Cell(note, note)])
    columns = {
        "layer": "",
        "stage": "run of layers of one width; each has its own path",
        "λ_W of the path": "",
        "flow time t": "since the first layer of the stage",
        "why not placed": "",
    }
    return Table("Places on the central path", columns, rows)


def predictions_table(comparison: xr.Dataset) -> Table:
    """Every prediction of every model; `missing` says which there are not."""
    quantities = quantities_of(comparison)
    rows = []
    for name in comparison["layer"].values:
        for model in MODELS:
            at = comparison.sel(layer=name, model=model)
            values = at["predicted"].sel(quantity=quantities).values
            if all(map(math.isnan, values)):
                continue
            held_out = "yes" if at["held_out"] else "no"
            cells = [_number(value, "not defined for this layer") for value in values]
            rows.append([_name(name), Cell(model, model), Cell(held_out, held_out), *cells])
    columns = {"layer": "", "model": "", "held out": "the layer did not enter the prediction"}
    columns |= {symbol(q): "" for q in quantities}
    return Table("Every prediction", columns, rows)


def fit_table(comparison: xr.Dataset) -> Table:
    """The pair optimum: parameters fitted from layer to layer, how good, and the certificate."""
    rows = []
    for place, name in enumerate(comparison["layer"].values):
        at = comparison.isel(layer=place)
        why = str(at["reason"].sel(model="pair").values)
        row = [_name(name)]
        for parameter in _PARAMETERS:
            row.append(_number(at["regularization"].sel(parameter=parameter), why))
            unsure = why or "the layers do not determine it, or it was not fitted to them"
            row.append(_number(at["standard_error"].sel(parameter=parameter), unsure))
        numbers = ("residual", "unchanged_residual", "spectral_ratio", "gap")
        row += [_number(at[variable], why) for variable in numbers]
        status = str(at["fit_status"].values)
        rows.append([*row, Cell(status or "–", status, "" if status else why)])
    columns = {"layer": ""}
    for parameter in _PARAMETERS:
        name = symbol(parameter)
        columns |= {name: "of the layer and the one before", f"s.e. log {name}": ""}
    columns |= {
        "residual": "misfit of the optimum",
        "residual, unchanged": "misfit of the previous layer itself",
        "r": "spectral ratio of the certificate; below 1 the optimum is the only global one",
        "gap": "how far the objective is above the minimum, at most",
        "fit": "",
    }
    return Table("The pair optimum: parameters and certificate", columns, rows)


def errors_table(table: xr.DataArray, metric: str) -> Table:
    """Models by quantities: median errors of one network, the best of each quantity marked.

    Args:
        table: (model, quantity), NaN where there is none.
        metric: that placed the layers.
    """
    rows = [[_name(model)] for model in table["model"].values]
    for quantity in table["quantity"].values:
        why = "the layers were placed by it" if quantity == metric else "no held-out prediction"
        for row, cell in zip(rows, _contested(table.sel(quantity=quantity), why), strict=True):
            row.append(cell)
    columns = {"model": ""} | {symbol(q): LABELS[q].meaning for q in table["quantity"].values}
    return Table("Median |log(predicted/measured)| by model and quantity", columns, rows)


def network_tables(table: xr.DataArray, metrics: Mapping[str, str]) -> dict[str, Table]:
    """Networks by models, for each quantity: median errors, the best of each network marked.

    Args:
        table: (network, model, quantity).
        metrics: network → metric that placed its layers.
    """
    columns = {"network": "", "layers judged": "of those held out"}
    columns |= {model: MODELS[model] for model in table["model"].values.tolist()}
    tables = {}
    for quantity in table["quantity"].values.tolist():
        rows = []
        for network in table["network"].values.tolist():
            placed = metrics[network] == quantity
            why = "the layers were placed by it" if placed else "no held-out prediction"
            cells = _contested(table.sel(network=network, quantity=quantity), why)
            at = table.sel(network=network)
            judged = Cell(f"{int(at['judged'])} of {int(at['layers'])}", int(at["judged"]))
            rows.append([_name(network), judged, *cells])
        caption = f"{symbol(quantity)}: median |log(predicted/measured)|"
        tables[quantity] = Table(caption, columns, rows)
    return tables


def missing(comparison: xr.Dataset) -> list[tuple[str, str, str]]:
    """(models, layers, reason) of predictions that there are not, one for each reason."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for model in MODELS:
        for layer in comparison["layer"].values.tolist():
            why = str(comparison["reason"].sel(model=model, layer=layer).values)
            if why:
                models, layers = found.setdefault(why, ({}, {}))
                models[model] = layers[layer] = None
    return [(", ".join(models), ", ".join(at), why) for why, (models, at) in found.items()]


def provenance(comparison: xr.Dataset) -> dict[str, str]:
    """What the comparison says of its origin."""
    titles = {
        "name": "network",
        "num_classes": "K",
        "num_samples": "N",
        "sampling": "finite sample",
        "loss": "loss of the pair",
        "metric": "placed by",
        "lambda_h": "λ_H of the path",
        "align": "class means aligned",
        "parameters_from": "pair parameters from",
        "perturb_nc_version": "perturb_nc",
        "statistics_sha256": "SHA-256 of the statistics",
    }
    attrs = dict(comparison.attrs)
    attrs["metric"] = symbol(attrs["metric"])
    known = {title: attrs.pop(key, "") for key, title in titles.items()}
    return {title: str(value) for title, value in (known | attrs).items() if value != ""}


def _contested(values: xr.DataArray, why: str) -> list[Cell]:
    known = [float(v) for v in values if not math.isnan(v)]
    least = min(known) if len(known) > 1 else math.nan
    cells = [_number(v, why) for v in values]
    return [Cell(c.text, c.value, c.why, best=c.value == least) for c in cells]


def _number(value: Any, why: str) -> Cell:
    x = float(value)
    return Cell("–", "", why) if math.isnan(x) else Cell(number(x), x)


def _whole(value: Any) -> Cell:
    return Cell(str(int(value)), int(value))


def _name(value: Any) -> Cell:
    return Cell(str(value), str(value))

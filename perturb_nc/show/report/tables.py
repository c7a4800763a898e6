"""The report's tables, from a comparison: text for people, whole numbers for the download."""

import math
from collections.abc import Sequence

import xarray as xr

from perturb_nc.show.labels import LABELS, number, short_names, symbol
from perturb_nc.show.report.collapse import SHOWN
from perturb_nc.show.report.parts import (
    Cell,
    Definitions,
    Folded,
    Part,
    Section,
    Table,
    Text,
    named,
    numeric,
    whole,
)
from perturb_nc.show.report.words import MODELS, best_models, quantities_of
from perturb_nc.theory.regularization import HYPERPARAMETERS


def section(comparison: xr.Dataset, errors: xr.DataArray) -> Section:
    """Every number of the figures, the errors first."""
    parts: list[Part] = []
    if int(errors["judged"]):
        said = (
            f"Median error over {int(errors['judged'])} of {int(errors['layers'])} held-out "
            "layers, those that the path and its rivals all predict; 0.1 is about 10 % off."
        )
        star = " ★ marks the best of each quantity, and all within a tenth of it."
        parts.append(Text(said + (star if int(errors["judged"]) > 1 else "")))
        parts.append(errors_table(errors, str(comparison.attrs["metric"])))
    parts += [measured_table(comparison), places_table(comparison)]
    if comparison["regularization"].notnull().any():
        parts.append(fit_table(comparison))
    every = predictions_table(comparison)
    if every.rows:
        parts.append(Folded("Every prediction as a table", [every]))
    if lost := missing(comparison):
        parts.append(Folded("Predictions that there are not, and why", [lost]))
    parts.append(Folded("Where the numbers come from", [Definitions(provenance(comparison))]))
    return Section("tables", "Tables", parts)


def measured_table(comparison: xr.Dataset) -> Table:
    """Layers by metrics, with intervals."""
    rows = []
    for place, name in enumerate(_names(comparison)):
        at = comparison.isel(layer=place)
        row = [name, whole(at["dim"])]
        for quantity in SHOWN:
            cell = numeric(at["measured"].sel(quantity=quantity), "not defined for this layer")
            if "interval" in comparison and cell.value != "":
                low, high = at["interval"].sel(quantity=quantity, bound=["low", "high"]).values
                if low == low:  # NaN where no interval can be had
                    below = f"[{number(low)}, {number(high)}]"
                    cell = Cell(cell.text, cell.value, below=below)
            row.append(cell)
        rows.append(row)
    columns = {"layer": "", "d": "dimension of the features"}
    columns |= {symbol(q): LABELS[q].meaning for q in SHOWN}
    caption = "Measured collapse metrics" + (
        ", [95 % intervals]" if "interval" in comparison else ""
    )
    return Table("measured", caption, columns, rows)


def places_table(comparison: xr.Dataset) -> Table:
    """Where each layer lies on the path of its stage."""
    rows = []
    for place, name in enumerate(_names(comparison)):
        at = comparison.isel(layer=place)
        why = str(at["reason"].sel(model="path").values) or "no place on the path"
        row = [name, whole(at["stage"])]
        row += [numeric(at["path_lambda_w"], why), numeric(at["flow_time"], why)]
        note = why if math.isnan(float(at["flow_time"])) else ""
        rows.append([*row, Cell(note, note)])
    columns = {
        "layer": "",
        "stage": "run of layers of one width; each has its own path",
        "λ_W of the path": "",
        "flow time t": "since the first layer of the stage",
        "why not placed": "",
    }
    return Table("places", "Places on the central path", columns, rows)


def predictions_table(comparison: xr.Dataset) -> Table:
    """Every prediction of every model; `missing` says which there are not."""
    quantities = quantities_of(comparison)
    rows = []
    for place, name in enumerate(_names(comparison)):
        for model in MODELS:
            at = comparison.isel(layer=place).sel(model=model)
            values = at["predicted"].sel(quantity=quantities).values
            if all(map(math.isnan, values)):
                continue
            held_out = "yes" if at["held_out"] else "no"
            cells = [numeric(value, "not defined for this layer") for value in values]
            rows.append([name, Cell(model, model), Cell(held_out, held_out), *cells])
    columns = {"layer": "", "model": "", "held out": "the layer did not enter the prediction"}
    columns |= {symbol(q): "" for q in quantities}
    return Table("predictions", "Every prediction", columns, rows)


def fit_table(comparison: xr.Dataset) -> Table:
    """The pair optimum: the certificate, parameters fitted from layer to layer, how good."""
    rows = []
    for place, name in enumerate(_names(comparison)):
        at = comparison.isel(layer=place)
        why = str(at["reason"].sel(model="pair").values)
        row = [name, numeric(at["spectral_ratio"], why), numeric(at["gap"], why)]
        for parameter in HYPERPARAMETERS:
            row.append(numeric(at["regularization"].sel(parameter=parameter), why))
            unsure = why or "the layers do not determine it, or it was not fitted to them"
            row.append(numeric(at["standard_error"].sel(parameter=parameter), unsure))
        row += [numeric(at[variable], why) for variable in ("residual", "unchanged_residual")]
        status = str(at["fit_status"].values)
        rows.append([*row, Cell(status or "–", status, "" if status else why)])
    certificate = {
        "r": "spectral ratio of the certificate; below 1 the optimum is the only global one",
        "gap": "how far the objective is above the minimum, at most",
    }
    columns = {"layer": ""} | certificate
    for parameter in HYPERPARAMETERS:
        sign = symbol(parameter)
        columns |= {
            sign: "of the layer and the one before",
            f"± log {sign}": "standard error of its log",
        }
    columns |= {
        "residual": "misfit of the optimum",
        "unchanged": "misfit of the previous layer itself",
        "fit": "",
    }
    caption = "The pair optimum: r proves it (below 1 it is the only global one), and its fit"
    return Table("fit", caption, columns, rows, kept=frozenset(certificate))


def errors_table(errors: xr.DataArray, metric: str) -> Table:
    """Models by quantities: median errors of one network, the best of each quantity marked.

    Args:
        errors: (model, quantity), NaN where there is none, with `judged`.
        metric: that placed the layers.
    """
    rows = [[named(model)] for model in errors["model"].values]
    for quantity in errors["quantity"].values:
        why = "the layers were placed by it" if quantity == metric else "no held-out prediction"
        for row, cell in zip(rows, contested(errors.sel(quantity=quantity), why), strict=True):
            row.append(cell)
    columns = {"model": ""} | {symbol(q): LABELS[q].meaning for q in errors["quantity"].values}
    caption = "Median |log(predicted/measured)| by model and quantity"
    return Table("errors", caption, columns, rows)


def contested(errors: xr.DataArray, why: str) -> list[Cell]:
    """Errors of models, the best marked where more than one layer is judged."""
    best = best_models(errors) if int(errors["judged"]) > 1 else ()
    cells = [numeric(value, why) for value in errors.values]
    models = errors["model"].values.tolist()
    return [
        Cell(c.text, c.value, c.why, best=model in best)
        for c, model in zip(cells, models, strict=True)
    ]


def missing(comparison: xr.Dataset) -> Table | None:
    """Predictions that there are not: models and layers of each reason."""
    found: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for model in MODELS:
        for layer in comparison["layer"].values.tolist():
            why = str(comparison["reason"].sel(model=model, layer=layer).values)
            if why:
                models, layers = found.setdefault(why, ({}, {}))
                models[model] = layers[layer] = None
    rows = [
        [named(why), named(", ".join(models)), named(", ".join(layers))]
        for why, (models, layers) in found.items()
    ]
    columns = {"why": "", "models": "", "layers": ""}
    return Table("missing", "Predictions that there are not", columns, rows) if rows else None


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


def _names(comparison: xr.Dataset) -> Sequence[Cell]:
    names = [str(name) for name in comparison["layer"].values]
    return [named(*pair) for pair in zip(names, short_names(names), strict=True)]

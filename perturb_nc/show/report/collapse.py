"""How near collapse: the section of what was measured, layer by layer."""

from typing import Any

import xarray as xr

from perturb_nc.show.labels import LABELS, short_names, symbol
from perturb_nc.show.report.drawing import (
    any_known,
    by_layer,
    layers_of,
    line,
    plain,
    positive_of,
    values_of,
)
from perturb_nc.show.report.parts import Definitions, Figure, Part, Section
from perturb_nc.show.report.words import change

SHOWN = ("nc1_trace", "nc1_span", "nc1", "cdnv", "nc2_etf")
"""Metrics together in one chart and one table."""
SCATTERS = {
    "Σ_W, Σ_B": "covariance within classes, and that of the class means; † is the pseudo-inverse",
}


def section(comparison: xr.Dataset) -> Section:
    """Definitions and the figure of the metrics."""
    words = {symbol(q): LABELS[q].meaning for q in SHOWN} | SCATTERS
    parts: list[Part] = [Definitions(words)]
    if (figure := collapse_figure(comparison)) is not None:
        parts.append(figure)
    return Section("collapse", "How near collapse the layers are", parts)


def collapse_figure(comparison: xr.Dataset) -> Figure | None:
    """Metrics by layer, with confidence intervals where there are some."""
    names, traces, said = layers_of(comparison), [], []
    columns = {"quantity": "series", "layer": "point", "measured": "y"}
    if "interval" in comparison:
        columns |= {"low": "low", "high": "high"}
    for mark, quantity in enumerate(SHOWN, start=1):
        values = positive_of(comparison["measured"].sel(quantity=quantity))
        said.append(change(symbol(quantity), short_names(names), values))
        if any_known(values):
            error = _error_bars(comparison, quantity)
            traces.append(line(mark, symbol(quantity), values).update(error_y=error))
    if not traces:
        return None
    summary = "; ".join(said) + ". Zero is collapse."
    figure = plain(traces, by_layer(names, "metric", log=True))
    return Figure("collapse", "Collapse metrics by layer", figure, {"": summary}, columns, names)


def _error_bars(comparison: xr.Dataset, quantity: str) -> dict[str, Any] | None:
    if "interval" not in comparison:
        return None
    measured = comparison["measured"].sel(quantity=quantity)
    interval = comparison["interval"].sel(quantity=quantity)
    above, below = interval.sel(bound="high") - measured, measured - interval.sel(bound="low")
    return {"type": "data", "array": values_of(above), "arrayminus": values_of(below)}

"""What the report's figures share: traces, axes and values; nothing is computed here.

A figure with a control is a plotly figure with frames, one for each state of the control. Colours
are the page's: a trace names its own by a number, `meta`, so that one figure serves light and dark.
Symbols differ too. What is downloaded is what is drawn.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.labels import SIDES, Side, short_names
from perturb_nc.show.report.words import MODELS

DRAWN = ("measured", *MODELS)  # a trace names its side by its place
MARKS = [SIDES[side] for side in DRAWN]
LOG = {
    "type": "log",
    "nticks": 4,  # with more every digit is numbered
    "tickformat": "~g",
}
_ROUNDING = 1e-12  # at or below it, as NC2 of two classes is, a value has no place on a log axis
_FLAT = 12  # letters of a name that lies flat under an axis
_MANY = 7  # layers; the names of more stand


def layers_of(comparison: xr.Dataset) -> list[str]:
    """Names of the layers."""
    return [str(name) for name in comparison["layer"].values]


def values_of(array: xr.DataArray) -> list[float]:
    """Plain numbers."""
    return array.values.astype(float).tolist()


def positive_of(array: xr.DataArray) -> list[float]:
    """Plain numbers, NaN where a logarithmic axis has no place for them."""
    return [value if value > _ROUNDING else math.nan for value in values_of(array)]


def sides_of(comparison: xr.Dataset, quantity: str) -> dict[str, list[float]]:
    """Side → a quantity along the layers: measured, then by every model."""
    predicted = comparison["predicted"].sel(quantity=quantity)
    sides = {"measured": positive_of(comparison["measured"].sel(quantity=quantity))}
    return sides | {model: positive_of(predicted.sel(model=model)) for model in MODELS}


def any_known(values: Sequence[float]) -> bool:
    """Whether there is a number to draw."""
    return not all(map(math.isnan, values))


def line(
    mark: int,
    name: str,
    values: Sequence[float],
    side: Side | None = None,
    *,
    x: Sequence[int] | None = None,
    count: int = 0,
) -> go.Scatter:
    """A line over the numbered points, `count` of them or one for each value, or over `x`.

    Drawn as a side, by default that of its mark.
    """
    side = side or MARKS[mark]
    return go.Scatter(
        x=list(x or range(count or len(values))),
        y=list(values),
        name=name,
        mode="lines+markers",
        marker={"symbol": side.symbol, "size": 8},
        line={"dash": side.dash, "width": 2.5 if mark == 0 else 1.6},
        meta=mark,
        hovertemplate="%{y:.3g}",
    )


def along(frames: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, dict[str, Any]]:
    """View → side → values, without the views and sides that have nothing to draw.

    Args:
        frames: view → side → values.
    """
    full = {
        view: sides
        for view, sides in frames.items()
        if any(any_known(values) for side, values in sides.items() if side != "measured")
    }
    seen = [side for side in DRAWN if any(any_known(sides[side]) for sides in full.values())]
    return {view: {side: list(sides[side]) for side in seen} for view, sides in full.items()}


def by_layer(names: Sequence[str], title: str, *, log: bool = False) -> dict[str, Any]:
    """The layout of a figure over layers, whose names are shortened where they are long."""
    laid = layout("", title, log=log)
    short = short_names(names)
    # Numbered, not categories: plotly would read its own markup in a name.
    laid["xaxis"]["tickvals"] = list(range(len(names)))
    laid["xaxis"]["ticktext"] = [escape(name) for name in short]
    laid |= {"hovermode": "x unified", "hoverdistance": -1}  # of the nearest layer
    if len(names) > _MANY or max(map(len, short)) > _FLAT:
        laid["xaxis"]["tickangle"] = -60
    return laid


def layout(x: str, y: str, *, log: bool = False) -> dict[str, Any]:
    """Axes and legend of a figure."""
    axis = {"automargin": True, "fixedrange": True, "zeroline": False}
    scale = LOG if log else {"type": "linear"}
    return {
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}, **scale},
        "margin": {"l": 8, "r": 8, "t": 8, "b": 8},
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom"},
        "hovermode": "closest",
        "dragmode": False,
        "showlegend": True,
    }


def plain(
    traces: Sequence[go.Scatter], laid: dict[str, Any], frames: Sequence[go.Frame] = ()
) -> dict[str, Any]:
    """Checked by plotly, without its template: the page has its own colours."""
    figure = go.Figure(list(traces), laid, frames=list(frames)).to_plotly_json()
    figure["layout"].pop("template", None)
    for trace in (trace for frame in figure.get("frames", ()) for trace in frame["data"]):
        del trace["type"]  # as in the data
    return figure

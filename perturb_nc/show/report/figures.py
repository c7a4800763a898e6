"""The report's interactive figures, from a comparison; nothing is computed here.

A figure with a control is a plotly figure with frames, one for each state of the control. Colours
are the page's: a trace names its own by a number, `meta`, so that one figure serves light and dark.
Symbols differ too. What is downloaded is what is drawn.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.labels import SIDES, Side, number, symbol
from perturb_nc.show.report.words import MODELS, change, quantities_of

SHOWN = ("nc1_trace", "nc1_span", "nc1", "cdnv", "nc2_etf")  # together in one chart
DRAWN = ("measured", *MODELS)  # a trace names its side by its place
_DRAWN = [SIDES[side] for side in DRAWN]
_LOG = {
    "type": "log",
    "nticks": 4,  # with more every digit is numbered
    "tickformat": "~g",
}
_ROUNDING = 1e-12  # at or below it, as NC2 of two classes is, a value has no place on a log axis
_FLAT, _LONG = 12, 20  # letters of a name that lies flat under an axis, and of any there
_MANY = 7  # layers; the names of more stand


@dataclass(frozen=True)
class Figure:
    """A figure of the page.

    Attributes:
        key: unique in its section.
        title: what it shows.
        figure: data, layout and (with a control) frames, for plotly.js.
        views: state of the control → one sentence for those who do not see the figure.
        columns: of the download → "view", "series", "point", "x", "y", "low" or "high".
        points: what the points of a trace are called in it.
        control: "select", "range" or "".
    """

    key: str
    title: str
    figure: dict[str, Any]
    views: dict[str, str]
    columns: dict[str, str]
    points: Sequence[str | int]
    control: str = ""


def figures(comparison: xr.Dataset) -> list[Figure]:
    """Every figure of one comparison."""
    drawn = (collapse_figure, time_figure, layers_figure, scatter_figure, spectrum_figure)
    return [draw(comparison) for draw in drawn]


def collapse_figure(comparison: xr.Dataset) -> Figure:
    """Metrics by layer, with confidence intervals where there are some."""
    names, traces, said = layers_of(comparison), [], []
    columns = {"quantity": "series", "layer": "point", "measured": "y"}
    if "interval" in comparison:
        columns |= {"low": "low", "high": "high"}
    for mark, quantity in enumerate(SHOWN, start=1):
        values = positive(comparison["measured"].sel(quantity=quantity))
        error = _error_bars(comparison, quantity)
        traces.append(line(mark, symbol(quantity), values).update(error_y=error))
        said.append(change(symbol(quantity), names, values))
    summary = "; ".join(said) + ". Zero is collapse."
    figure = plain(traces, by_layer(names, "metric", log=True))
    return Figure("collapse", "Collapse metrics by layer", figure, {"": summary}, columns, names)


def time_figure(comparison: xr.Dataset) -> Figure:
    """Flow time of every layer that the path comes by, a line for each width."""
    names, times = layers_of(comparison), _values(comparison["flow_time"])
    stages = comparison["stage"].values.tolist()
    traces, said = [], []
    for count, stage in enumerate(dict.fromkeys(stages)):
        own = [t if s == stage else math.nan for t, s in zip(times, stages, strict=True)]
        if all(map(math.isnan, own)):
            continue
        name = f"d = {int(comparison['dim'].values[stages.index(stage)])}"
        traces.append(line(1 + count % 5, name, own))
        said.append(change(f"{name}: flow time", names, own))
    reasons = comparison["reason"].sel(model="path").values.tolist()
    said += [f"no place for {name}: {why}" for name, why in zip(names, reasons, strict=True) if why]
    summary = "; ".join(said) + "."
    figure = plain(traces, by_layer(names, "flow time t"))
    columns = {"stage": "series", "layer": "point", "flow_time": "y"}
    return Figure("time", "Flow time of the layers", figure, {"": summary}, columns, names)


def layers_figure(comparison: xr.Dataset) -> Figure:
    """Each quantity along the layers: measured, of the theory and of its rivals."""
    names, frames, views = layers_of(comparison), [], {}
    for quantity in quantities_of(comparison):
        sides = _sides(comparison, quantity)
        axis = {"title": {"text": symbol(quantity)}}
        data = [go.Scatter(y=values) for values in sides.values()]
        frames.append(go.Frame(data=data, layout={"yaxis": axis}))
        said = [change(side, names, sides[side]) for side in ("measured", "path", "pair")]
        views[symbol(quantity)] = f"{symbol(quantity)}: {'; '.join(said)}."
    base = [line(mark, side, [], count=len(names)) for mark, side in enumerate(DRAWN)]
    figure = plain(base, by_layer(names, " ", log=True), frames)
    columns = {"quantity": "view", "series": "series", "layer": "point", "value": "y"}
    title = "Measured and predicted along the layers"
    return Figure("layers", title, figure, views, columns, names, "select")


def scatter_figure(comparison: xr.Dataset) -> Figure:
    """Predicted against measured; open symbols where the layer itself went into the prediction."""
    names, frames, views = layers_of(comparison), [], {}
    base = [go.Scatter(name="equal", mode="lines", meta=0, line={"width": 1}, hoverinfo="skip")]
    for mark, model in enumerate(MODELS, start=1):
        at = comparison.sel(model=model)
        seen = ~at["held_out"] & at["predicted"].notnull().any("quantity")
        symbols = [_DRAWN[mark].symbol + ("-open" if own else "") for own in seen.values]
        base.append(
            go.Scatter(
                name=model, mode="markers", meta=mark, marker={"symbol": symbols, "size": 9},
                text=[escape(name) for name in names],
                hovertemplate="%{text}: measured %{x:.3g}, predicted %{y:.3g}",
            )
        )  # fmt: skip
    for quantity in quantities_of(comparison):
        measured, *predicted = _sides(comparison, quantity).values()
        # The line has the x of all others: they go without, for the page's size.
        data = [go.Scatter(x=measured, y=measured), *(go.Scatter(y=y) for y in predicted)]
        axes = {
            axis: {"title": {"text": f"{symbol(quantity)} {side}"}}
            for axis, side in (("xaxis", "measured"), ("yaxis", "predicted"))
        }
        frames.append(go.Frame(data=data, layout=axes))
        counts = [
            f"{model} {sum(v == v for v in values)}"
            for model, values in zip(MODELS, predicted, strict=True)
        ]
        views[symbol(quantity)] = (
            f"{symbol(quantity)} predicted against measured; layers by model: {', '.join(counts)}."
        )
    layout = _layout("measured", "predicted", log=True)
    layout["xaxis"] |= _LOG
    columns = {
        "quantity": "view", "model": "series", "layer": "point", "measured": "x", "predicted": "y",
    }  # fmt: skip
    figure = plain(base, layout, frames)
    title = "Predicted against measured (open symbols: the layer went into its own prediction)"
    return Figure("scatter", title, figure, views, columns, names, "select")


def spectrum_figure(comparison: xr.Dataset) -> Figure:
    """Leading eigenvalues of Σ_W / tr Σ_B of one layer; a slider moves through the layers."""
    index, frames, views = comparison["index"].values.tolist(), [], {}
    for name in layers_of(comparison):
        at = comparison.sel(layer=name)
        predicted = at["predicted_spectrum"]
        sides = {"measured": positive(at["spectrum"])}
        sides |= {model: positive(predicted.sel(model=model)) for model in MODELS}
        frames.append(go.Frame(data=[go.Scatter(y=values) for values in sides.values()]))
        first = [f"{number(v[0])} {side}" for side, v in sides.items() if v[0] == v[0]]
        views[name] = f"{name}: the largest eigenvalue is {', '.join(first) or 'not known'}."
    base = [line(mark, side, [], x=index) for mark, side in enumerate(DRAWN)]
    title = "eigenvalue of Σ<sub>W</sub> / tr Σ<sub>B</sub>"
    figure = plain(base, _layout("index, largest first", title, log=True), frames)
    columns = {"layer": "view", "series": "series", "index": "point", "eigenvalue": "y"}
    title = "Spectrum of the within-class covariance"
    return Figure("spectrum", title, figure, views, columns, index, "range")


def layers_of(comparison: xr.Dataset) -> list[str]:
    """Names of the layers."""
    return [str(name) for name in comparison["layer"].values]


def _values(array: xr.DataArray) -> list[float]:
    return array.values.astype(float).tolist()


def positive(array: xr.DataArray) -> list[float]:
    """Values, NaN where they have no place on a logarithmic axis."""
    return _values(array.where(array > _ROUNDING))


def _sides(comparison: xr.Dataset, quantity: str) -> dict[str, list[float]]:
    predicted = comparison["predicted"].sel(quantity=quantity)
    sides = {"measured": positive(comparison["measured"].sel(quantity=quantity))}
    return sides | {model: positive(predicted.sel(model=model)) for model in MODELS}


def _error_bars(comparison: xr.Dataset, quantity: str) -> dict[str, Any] | None:
    if "interval" not in comparison:
        return None
    measured = comparison["measured"].sel(quantity=quantity)
    interval = comparison["interval"].sel(quantity=quantity)
    above, below = interval.sel(bound="high") - measured, measured - interval.sel(bound="low")
    return {"type": "data", "array": _values(above), "arrayminus": _values(below)}


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
    side = side or _DRAWN[mark]
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


def by_layer(names: Sequence[str], title: str, *, log: bool = False) -> dict[str, Any]:
    """A layout with a place for every layer."""
    layout = _layout("", title, log=log)
    # Numbered, not categories: plotly would read its own markup in a name.
    layout["xaxis"]["tickvals"] = list(range(len(names)))
    short = [name if len(name) <= _LONG else "…" + name[1 - _LONG :] for name in names]
    layout["xaxis"]["ticktext"] = [escape(name) for name in short]
    layout |= {"hovermode": "x unified", "hoverdistance": -1}  # of the nearest layer
    if len(names) > _MANY or max(map(len, names)) > _FLAT:
        layout["xaxis"]["tickangle"] = -60
    return layout


def _layout(x: str, y: str, *, log: bool = False) -> dict[str, Any]:
    axis = {"automargin": True, "fixedrange": True, "zeroline": False}
    scale = _LOG if log else {"type": "linear"}
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
    traces: Sequence[go.Scatter], layout: dict[str, Any], frames: Sequence[go.Frame] = ()
) -> dict[str, Any]:
    """Checked by plotly, without its template: the page has its own colours."""
    figure = go.Figure(list(traces), layout, frames=list(frames)).to_plotly_json()
    figure["layout"].pop("template", None)
    for trace in (trace for frame in figure.get("frames", ()) for trace in frame["data"]):
        del trace["type"]  # as in the data
    return figure

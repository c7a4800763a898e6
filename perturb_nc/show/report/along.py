"""Measured and predicted along the layers: the section of every model's predictions."""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.labels import LABELS, short_names, symbol
from perturb_nc.show.report.collapse import SHOWN
from perturb_nc.show.report.drawing import (
    DRAWN,
    LOG,
    MARKS,
    along,
    by_layer,
    layers_of,
    layout,
    line,
    plain,
    sides_of,
)
from perturb_nc.show.report.parts import Definitions, Figure, Part, Section, Text
from perturb_nc.show.report.words import MODELS, change, quantities_of

Views = Mapping[str, Mapping[str, Sequence[float]]]  # quantity → side → value of each layer


def section(comparison: xr.Dataset) -> Section:
    """What each model is, then its predictions along the layers and against measurements."""
    found = along({q: sides_of(comparison, q) for q in quantities_of(comparison)})
    if not found:
        nothing = Text("There is no prediction to draw: each layer has a width of its own.")
        return Section("along", "Measured and predicted", [nothing])
    further = {symbol(q): LABELS[q].meaning for q in quantities_of(comparison) if q not in SHOWN}
    sides = [side for side in MODELS if comparison["predicted"].sel(model=side).notnull().any()]
    words = Definitions({side: MODELS[side] for side in sides} | further)
    parts: list[Part] = [words, layers_figure(comparison, found), scatter_figure(comparison, found)]
    return Section("along", "Measured and predicted", parts)


def layers_figure(comparison: xr.Dataset, found: Views) -> Figure:
    """Each quantity along the layers: measured, of the theory and of its rivals."""
    names, frames, views = layers_of(comparison), [], {}
    for quantity, sides in found.items():
        axis = {"title": {"text": symbol(quantity)}}
        data = [go.Scatter(y=values) for values in sides.values()]
        frames.append(go.Frame(data=data, layout={"yaxis": axis}))
        said = [
            change(s, short_names(names), sides[s])
            for s in ("measured", "path", "pair")
            if s in sides
        ]
        views[symbol(quantity)] = f"{symbol(quantity)}: {'; '.join(said)}."
    sides = next(iter(found.values()))
    base = [line(DRAWN.index(side), side, [], count=len(names)) for side in sides]
    figure = plain(base, by_layer(names, " ", log=True), frames)
    columns = {"quantity": "view", "series": "series", "layer": "point", "value": "y"}
    title = "Measured and predicted along the layers"
    return Figure("layers", title, figure, views, columns, names, "select")


def scatter_figure(comparison: xr.Dataset, found: Views) -> Figure:
    """Predicted against measured; open symbols where the layer itself went into the prediction."""
    names, frames, views = layers_of(comparison), [], {}
    models = [side for side in next(iter(found.values())) if side != "measured"]
    base = [go.Scatter(name="equal", mode="lines", meta=0, line={"width": 1}, hoverinfo="skip")]
    for model in models:
        at, mark = comparison.sel(model=model), DRAWN.index(model)
        seen = ~at["held_out"] & at["predicted"].notnull().any("quantity")
        symbols = [MARKS[mark].symbol + ("-open" if own else "") for own in seen.values]
        base.append(
            go.Scatter(
                name=model, mode="markers", meta=mark, marker={"symbol": symbols, "size": 9},
                text=[escape(name) for name in names],
                hovertemplate="%{text}: measured %{x:.3g}, predicted %{y:.3g}",
            )
        )  # fmt: skip
    for quantity, sides in found.items():
        measured = sides["measured"]
        # The line has the x of all others: they go without, for the page's size.
        data = [go.Scatter(x=measured, y=measured), *(go.Scatter(y=sides[m]) for m in models)]
        axes = {
            axis: {"title": {"text": f"{symbol(quantity)} {side}"}}
            for axis, side in (("xaxis", "measured"), ("yaxis", "predicted"))
        }
        frames.append(go.Frame(data=data, layout=axes))
        counts = [f"{model} {sum(v == v for v in sides[model])}" for model in models]
        views[symbol(quantity)] = (
            f"{symbol(quantity)} predicted against measured; layers by model: {', '.join(counts)}."
        )
    laid = layout("measured", "predicted", log=True)
    laid["xaxis"] |= LOG
    columns = {
        "quantity": "view", "model": "series", "layer": "point", "measured": "x", "predicted": "y",
    }  # fmt: skip
    figure = plain(base, laid, frames)
    title = "Predicted against measured (open symbols: the layer went into its own prediction)"
    return Figure("scatter", title, figure, views, columns, names, "select")

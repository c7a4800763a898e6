"""The report's section on the theories of depth: a figure, a table and what they say."""

import math
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.bench import record, sentences
from perturb_nc.show.labels import LABELS, THEORIES, number, symbol
from perturb_nc.show.report.figures import (
    DRAWN,
    Figure,
    by_layer,
    layers_of,
    line,
    plain,
    positive,
)
from perturb_nc.show.report.tables import Cell, Table
from perturb_nc.show.report.words import change
from perturb_nc.study.bench import BLOCKS
from perturb_nc.study.comparison import bench_of

SIDES = {f"bench {name}": side for name, side in THEORIES.items() if name != "measured"}
"""What the theories are drawn as, after the sides of the other figures."""


def section(comparison: xr.Dataset) -> dict[str, Any] | None:
    """What the template shows of the bench of a network; None where none was made."""
    bench = bench_of(comparison)
    if bench is None:
        return None
    found = record(bench)
    return {
        "figure": bench_figure(bench),
        "table": bench_table(found),
        "sentences": [said[0].upper() + said[1:] + "." for said in sentences(found)],
        "judged": f"{found['judged']} of {found['layers']}",
        "metric": symbol(found["metric"]),
    }


def bench_figure(bench: xr.Dataset) -> Figure:
    """Each quantity along the layers: measured, and as each theory predicts it unseen."""
    names, frames, views = layers_of(bench), [], {}
    models = [m for m in bench["model"].values.tolist() if f"bench {m}" in SIDES]
    for quantity in bench["quantity"].values.tolist():
        measured = positive(bench["measured"].sel(quantity=quantity))
        predicted = bench["predicted"].sel(quantity=quantity)
        sides = [measured, *(positive(predicted.sel(model=m)) for m in models)]
        axis = {"title": {"text": symbol(quantity)}}
        frames.append(go.Frame(data=[go.Scatter(y=y) for y in sides], layout={"yaxis": axis}))
        views[symbol(quantity)] = (
            f"{change(f'measured {symbol(quantity)}', names, measured)}; "
            f"{sum(any(map(math.isfinite, y)) for y in sides[1:])} theories and rivals predict it."
        )
    base = [line(0, "measured", [], THEORIES["measured"], count=len(names))]
    for model in models:
        mark = len(DRAWN) + [*SIDES].index(f"bench {model}")
        base.append(line(mark, model, [], SIDES[f"bench {model}"], count=len(names)))
        base[-1].update(line={"width": 1.2}, marker={"size": 6})
    figure = plain(base, by_layer(names, " ", log=True), frames)
    columns = {"quantity": "view", "series": "series", "layer": "point", "value": "y"}
    title = "Every layer as the theories of depth predict it without having seen it"
    return Figure("bench", title, figure, views, columns, names, "select")


def bench_table(found: dict[str, Any]) -> Table:
    """Median errors of every theory, what it sees, and where it is furthest off."""
    rows = []
    for name, row in found["theories"].items():
        why = "it predicts fewer than half of the layers, or of the quantities"
        worst = row["worst"]
        said = ""
        if worst is not None:
            said = f"{worst['layer']}: {symbol(worst['quantity'])} {number(worst['error'])}"
        cells = [_error(row[block], why, name in found["follows"]) for block in BLOCKS]
        words = (Cell(text, text) for text in (row["sees"], row["told"]))
        count = Cell(str(row["predicted"]), row["predicted"])
        rows.append([Cell(name, name), *cells, count, Cell(said or "–", said), *words])
    columns = {"theory": ""}
    for block, names in BLOCKS.items():
        title = {"in_span": "in the span", "out_of_span": "with what is outside"}[block]
        columns[title] = ", ".join(LABELS[name].symbol for name in names)
    columns |= {
        "layers": "of which it predicts something",
        "furthest off": "of all that it predicts",
        "sees": "",
        "of the layer itself": "",
    }
    return Table("Median |log(predicted/measured)| of layers left out", columns, rows)


def _error(value: float, why: str, best: bool) -> Cell:
    return Cell("–", "", why) if math.isnan(value) else Cell(number(value), value, best=best)

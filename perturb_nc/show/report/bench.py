"""The theories of depth on the bench: the section on which of them a network follows."""

import math
from typing import Any

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.bench_tables import record, sentences
from perturb_nc.show.labels import LABELS, THEORIES, number, short_names, symbol
from perturb_nc.show.report.drawing import DRAWN, by_layer, layers_of, line, plain, positive_of
from perturb_nc.show.report.parts import Cell, Figure, Part, Section, Sentences, Table, Text, whole
from perturb_nc.show.report.words import change
from perturb_nc.study.bench import BLOCKS
from perturb_nc.study.comparison import bench_of

MARKS = {name: side for name, side in THEORIES.items() if name != "measured"}
"""What the theories are drawn as: the marks after those of the other figures."""
_TITLES = {"in_span": "in the span", "out_of_span": "with what is outside"}


def sections(comparison: xr.Dataset) -> list[Section]:
    """The section, where the comparison has a bench beside it."""
    bench = bench_of(comparison)
    if bench is None:
        return []
    found = record(bench)
    about = (
        "Every layer but the first of its width is left out in its turn and predicted by each "
        "theory; path and chains are fitted to the other layers, placed by "
        f"{symbol(found['metric'])}. Errors are those of {found['judged']} of {found['layers']} "
        "layers, the ones that all predict. ★ marks what the network follows."
    )
    said = [words[0].upper() + words[1:] + "." for words in sentences(found)]
    parts: list[Part] = [Text(about), Sentences("Verdict", said)]
    parts += [bench_figure(bench), bench_table(found)]
    return [Section("bench", "Which theory of depth it follows", parts)]


def bench_figure(bench: xr.Dataset) -> Figure:
    """Each quantity along the layers: measured, and as each theory predicts it unseen."""
    names, frames, views = layers_of(bench), [], {}
    says = bench["predicted"].notnull().any(("layer", "quantity"))
    models = [m for m in bench["model"].values.tolist() if says.sel(model=m)]
    for quantity in bench["quantity"].values.tolist():
        measured = positive_of(bench["measured"].sel(quantity=quantity))
        predicted = bench["predicted"].sel(quantity=quantity)
        sides = [measured, *(positive_of(predicted.sel(model=m)) for m in models)]
        axis = {"title": {"text": symbol(quantity)}}
        frames.append(go.Frame(data=[go.Scatter(y=y) for y in sides], layout={"yaxis": axis}))
        views[symbol(quantity)] = (
            f"{change(f'measured {symbol(quantity)}', short_names(names), measured)}; "
            f"{sum(any(map(math.isfinite, y)) for y in sides[1:])} theories and rivals predict it."
        )
    base = [line(0, "measured", [], THEORIES["measured"], count=len(names))]
    for model in models:
        mark = len(DRAWN) + [*MARKS].index(model)
        trace = line(mark, model, [], MARKS[model], count=len(names))
        base.append(trace.update(line={"width": 1.2}, marker={"size": 6}))
    figure = plain(base, by_layer(names, " ", log=True), frames)
    columns = {"quantity": "view", "series": "series", "layer": "point", "value": "y"}
    title = "Every layer as the theories of depth predict it without having seen it"
    return Figure("bench", title, figure, views, columns, names, "select", 30.0)


def bench_table(found: dict[str, Any]) -> Table:
    """Median errors of every theory, what it sees, and where it is furthest off."""
    rows = []
    for name, row in found["theories"].items():
        worst = row["worst"]
        said = ""
        if worst is not None:
            said = f"{worst['layer']}: {symbol(worst['quantity'])} {number(worst['error'])}"
        best = name in found["follows"]
        cells = [_error(row["in_span"], best), _error(row["out_of_span"], False)]
        words = (Cell(text, text) for text in (row["sees"], row["told"]))
        last = Cell(said or "–", said, "" if said else "it predicts nothing")
        rows.append([Cell(name, name), *cells, whole(row["predicted"]), last, *words])
    columns = {"theory": ""}
    columns |= {
        _TITLES[b]: ", ".join(LABELS[q].symbol for q in names) for b, names in BLOCKS.items()
    }
    columns |= {
        "layers": "of which it predicts something",
        "furthest off": "of all that it predicts",
        "sees": "",
        "of the layer itself": "",
    }
    caption = "Median |log(predicted/measured)| of layers left out"
    return Table("bench-errors", caption, columns, rows)


def _error(value: float, best: bool) -> Cell:
    why = "it predicts fewer than half of the layers, or of the quantities"
    return Cell("–", "", why) if math.isnan(value) else Cell(number(value), value, best=best)

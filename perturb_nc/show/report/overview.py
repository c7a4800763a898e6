"""All networks at once: the section before those of each."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.labels import LABELS, number, short_names, symbol
from perturb_nc.show.report.collapse import SHOWN
from perturb_nc.show.report.drawing import DRAWN, LOG, MARKS, any_known, layout, plain
from perturb_nc.show.report.parts import (
    Cell,
    Choice,
    Definitions,
    Figure,
    Folded,
    Part,
    Section,
    Sentences,
    Table,
    Text,
    named,
)
from perturb_nc.show.report.tables import contested
from perturb_nc.show.report.verdict import headline
from perturb_nc.show.report.words import (
    MODELS,
    THEORY,
    best_models,
    joined,
    standing,
    where_it_loses,
)

_ROW, _AXIS = 1.6, 8.0  # rem of a network in the figure, and of its axis and legend


def section(
    comparisons: Sequence[xr.Dataset], table: xr.DataArray, links: Sequence[str]
) -> Section:
    """Verdict, figure and tables over all networks.

    Args:
        comparisons: of the networks.
        table: their errors (network, model, quantity).
        links: of their sections.
    """
    words = {symbol(q): LABELS[q].meaning for q in SHOWN} | dict(MODELS)
    parts: list[Part] = [
        Sentences("How near collapse", how_near(comparisons)),
        Sentences("Which prediction is best", which_is_best(table)),
        Sentences("Where the theory loses", where_it_loses_overall(table)),
        Definitions(words),
    ]
    if (figure := errors_figure(table)) is not None:
        said = (
            "Errors are medians of |log(predicted/measured)| over the held-out layers that the "
            "path and its rivals all predict; 0.1 is about 10 % off."
        )
        parts += [Text(said), figure]
    metrics = {str(c.attrs["name"]): str(c.attrs["metric"]) for c in comparisons}
    choice = Choice("errors", "Quantity", network_tables(table, metrics), "nc1")
    parts.append(networks_table(comparisons, table, links))
    parts.append(Folded("Quantity by quantity", [Sentences("Standings", where_it_loses(table))]))
    parts.append(Folded("Errors of every network as tables", [choice]))
    return Section("summary", "All networks", parts)


def how_near(comparisons: Sequence[xr.Dataset]) -> list[str]:
    """The range of the last layers, and which is nearest."""
    last = {
        str(c.attrs["name"]): float(c["measured"].sel(quantity="nc1_trace").isel(layer=-1))
        for c in comparisons
    }
    known = {name: value for name, value in last.items() if value == value}
    if not known:
        return ["ÑC1 is not defined for any last layer."]
    near, far = min(known, key=known.__getitem__), max(known, key=known.__getitem__)
    return [
        f"ÑC1 of the last layer is from {number(known[near])} ({near}, the nearest to collapse) to "
        f"{number(known[far])} ({far}); 0 is collapse."
    ]


def which_is_best(table: xr.DataArray) -> list[str]:
    """For every quantity, which models are best on the most networks, ties counted for all."""
    said: dict[str, list[str]] = {}
    for quantity in table["quantity"].values.tolist():
        rows = [table.sel(quantity=quantity).isel(network=i) for i in range(table.sizes["network"])]
        rows = [row for row in rows if int(row["judged"]) > 1]
        best = [best_models(row) for row in rows]
        best = [models for models in best if models]
        counts = {model: sum(model in models for models in best) for model in MODELS}
        most = max(counts.values(), default=0)
        if most:
            leading = joined([model for model, count in counts.items() if count == most])
            said.setdefault(f"{leading}, on {most} of {len(best)} networks", []).append(
                symbol(quantity)
            )
    if not said:
        return ["No network has two layers that can be judged."]
    lines = [f"{joined(labels)}: {leading}." for leading, labels in said.items()]
    return [*lines, "A model within a tenth of the least error counts as best too."]


def where_it_loses_overall(table: xr.DataArray) -> list[str]:
    """On how many networks a naive rival is better, over the quantities: one sentence a model."""
    said = []
    for model, name in THEORY.items():
        found = [standing(table, model, quantity) for quantity in table["quantity"].values.tolist()]
        lost = [each.lost for each in found if each.networks]
        most = max((each.networks for each in found), default=0)
        if lost:
            span = f"{min(lost)} to {max(lost)}" if min(lost) < max(lost) else f"{lost[0]}"
            said.append(
                f"A naive rival predicts better than {name} on {span} of {most} networks, "
                "depending on the quantity."
            )
        else:
            said.append(f"There is no held-out prediction of {name} to judge.")
    return said


def errors_figure(table: xr.DataArray) -> Figure | None:
    """A row for each network: the error of every model, for the quantity chosen."""
    networks = [str(name) for name in table["network"].values]
    places = list(range(len(networks)))[::-1]  # the first on top
    frames, views = [], {}
    found = {}
    for quantity in table["quantity"].values.tolist():
        at = table.sel(quantity=quantity)
        sides = {model: at.sel(model=model).values.tolist() for model in MODELS}
        if any(map(any_known, sides.values())):
            found[quantity] = sides
    shown = [model for model in MODELS if any(any_known(s[model]) for s in found.values())]
    if not found:
        return None
    for quantity, sides in found.items():
        data = [go.Scatter(x=sides[model], y=places) for model in shown]
        axis = {"title": {"text": f"median error of {symbol(quantity)}"}}
        frames.append(go.Frame(data=data, layout={"xaxis": axis}))
        medians = table.sel(quantity=quantity).median("network", skipna=True)
        each = ", ".join(f"{model} {number(float(medians.sel(model=model)))}" for model in shown)
        views[symbol(quantity)] = f"{symbol(quantity)}, median over networks: {each}."
    base = [
        go.Scatter(
            name=model, mode="markers", meta=DRAWN.index(model),
            marker={"symbol": MARKS[DRAWN.index(model)].symbol, "size": 9},
            hovertemplate="%{x:.3g}",
        )
        for model in shown
    ]  # fmt: skip
    laid = layout("median error", "")
    laid["xaxis"] |= LOG
    laid["yaxis"] |= {"tickvals": places, "ticktext": short_names(networks, 24)}
    laid["yaxis"] |= {"range": [-0.6, len(networks) - 0.4]}
    figure = plain(base, laid, frames)
    columns = {"quantity": "view", "model": "series", "network": "point", "error": "x"}
    title, height = "Errors of every model on every network", _AXIS + _ROW * len(networks)
    return Figure("networks", title, figure, views, columns, networks, "select", height)


def networks_table(
    comparisons: Sequence[xr.Dataset], table: xr.DataArray, links: Sequence[str]
) -> Table:
    """A row for each network, leading to its section."""
    names = [str(c.attrs["name"]) for c in comparisons]
    rows = []
    for place, (name, short) in enumerate(zip(names, short_names(names, 28), strict=True)):
        first = Cell(short, name, href=links[place])
        rows.append([first, *headline(comparisons[place], table.isel(network=place))])
    columns = {
        "network": "",
        "layers": "measured",
        **{symbol(q): LABELS[q].meaning for q in ("nc1_trace", "nc1", "cdnv")},
        "judged": "of the layers held out",
        "best in NC1": "models within a tenth of the least error",
    }
    return Table(
        "all",
        "The networks: metrics of the last layer, and what predicts NC1 best",
        columns,
        rows,
    )


def network_tables(table: xr.DataArray, metrics: Mapping[str, str]) -> dict[str, Table]:
    """Networks by models, for each quantity: median errors, the best of each network marked.

    Args:
        table: (network, model, quantity).
        metrics: network → metric that placed its layers.
    """
    columns = {"network": "", "layers judged": "of those held out"}
    columns |= {model: MODELS[model] for model in table["model"].values.tolist()}
    tables = {}
    networks = table["network"].values.tolist()
    for quantity in table["quantity"].values.tolist():
        rows = []
        if not table.sel(quantity=quantity).notnull().any():
            continue
        for network, short in zip(networks, short_names(networks, 28), strict=True):
            placed = metrics[network] == quantity
            why = "the layers were placed by it" if placed else "no held-out prediction"
            at = table.sel(network=network)
            judged = Cell(f"{int(at['judged'])} of {int(at['layers'])}", int(at["judged"]))
            rows.append([named(network, short), judged, *contested(at.sel(quantity=quantity), why)])
        caption = f"{symbol(quantity)}: median |log(predicted/measured)|"
        tables[quantity] = Table(quantity, caption, columns, rows)
    return tables

"""One self-contained HTML page of comparisons of the theory with measured networks."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from perturb_nc.show.labels import LABELS, SIDES, symbol
from perturb_nc.show.report import bench, tables
from perturb_nc.show.report.figures import DRAWN, figures
from perturb_nc.show.report.words import MODELS, judged_errors, of_pairs, where_it_loses
from perturb_nc.storage import json_text, replacing
from perturb_nc.study.quantities import JUDGED


def write_report(
    comparisons: Sequence[xr.Dataset],
    path: str | Path,
    *,
    title: str = "Near collapse, measured and predicted",
) -> None:
    """Write one HTML page of comparisons, atomically; it opens from disk and loads nothing.

    A section for each comparison: what was measured, how near collapse each layer is, where it lies
    on the path, what the model predicts, where it fails. Several begin with a table of all.

    Args:
        comparisons: of `compare_layers` or `load_comparison`, of different names.
        path: file to write.
        title: of the page.

    Raises:
        ValueError: no comparison, or two of one name.
    """
    names = [str(comparison.attrs["name"]) for comparison in comparisons]
    if not names:
        raise ValueError("comparisons must hold at least one comparison, got none")
    if len(set(names)) < len(names):
        raise ValueError(f"comparisons must differ in name, got {names}; rename one of the files")
    page = _page(comparisons, title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf8")


def _page(comparisons: Sequence[xr.Dataset], title: str) -> str:
    networks = [_network(number, c) for number, c in enumerate(comparisons, start=1)]
    drawn = {figure["id"]: figure for network in networks for figure in network["figures"].values()}
    summary = None
    if len(comparisons) > 1:
        table = judged_errors(comparisons)
        metrics = {str(c.attrs["name"]): str(c.attrs["metric"]) for c in comparisons}
        summary = {
            "tables": tables.network_tables(table, metrics),
            "sentences": where_it_loses(table),
        }
    environment = Environment(
        loader=PackageLoader("perturb_nc.show.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        title=title,
        networks=networks,
        summary=summary,
        label=symbol,
        models=MODELS,
        quantities={name: LABELS[name] for name in JUDGED},
        figures=_inline_json(drawn),
        css=_colours() + _asset("report.css"),
        js=_asset("report.js"),
        plotly=Markup(get_plotlyjs()),
    )


def _network(number: int, comparison: xr.Dataset) -> dict[str, Any]:
    """What the template shows of one comparison."""
    errors = judged_errors([comparison])
    section = f"network-{number}"
    benched = bench.section(comparison)
    drawn = figures(comparison) + ([] if benched is None else [benched["figure"]])
    return {
        "id": section,
        "name": str(comparison.attrs["name"]),
        "metric": symbol(str(comparison.attrs["metric"])),
        "provenance": tables.provenance(comparison),
        "figures": {
            figure.key: {"id": f"{section}-{figure.key}", **vars(figure)} for figure in drawn
        },
        "bench": benched,
        "measured": tables.measured_table(comparison),
        "places": tables.places_table(comparison),
        "of_pairs": of_pairs(comparison),
        "fit": tables.fit_table(comparison),
        "predictions": tables.predictions_table(comparison),
        "errors": tables.errors_table(errors.isel(network=0), str(comparison.attrs["metric"])),
        "judged": f"{int(errors['judged'][0])} of {int(errors['layers'][0])}",
        "sentences": where_it_loses(errors),
        "missing": tables.missing(comparison),
    }


def _colours() -> Markup:
    """The colours of the sides as the style sheet's --mark-0, --mark-1, …"""
    sides = enumerate([*(SIDES[name] for name in DRAWN), *bench.SIDES.values()])
    pairs = [f"--mark-{i}: light-dark({side.light}, {side.dark});" for i, side in sides]
    return Markup(":root { " + " ".join(pairs) + " }\n")


def _inline_json(record: Any) -> Markup:
    """JSON that cannot end the script element it stands in."""
    return Markup(json_text(record, indent=None).replace("<", "\\u003c"))


def _asset(name: str) -> Markup:
    return Markup(
        files("perturb_nc.show.report").joinpath("templates", name).read_text(encoding="utf8")
    )

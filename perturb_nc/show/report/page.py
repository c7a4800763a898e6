"""One self-contained HTML page of comparisons of the theory with measured networks."""

import base64
import gzip
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from perturb_nc.show.labels import SIDES, symbol
from perturb_nc.show.report import (
    along,
    bench,
    collapse,
    overview,
    places,
    spectrum,
    tables,
    verdict,
)
from perturb_nc.show.report.drawing import DRAWN
from perturb_nc.show.report.parts import Figure, Section, figures_in
from perturb_nc.show.report.words import judged_errors
from perturb_nc.storage import json_text, replacing
from perturb_nc.validation import instance


def write_report(
    comparisons: Sequence[xr.Dataset],
    path: str | Path,
    *,
    title: str = "Near collapse, measured and predicted",
) -> None:
    """Write one HTML page of comparisons, atomically; it opens from disk and loads nothing.

    For each comparison: the verdict (how near collapse, which prediction is best, what to
    distrust), then figures, then tables. Several begin with an overview, and each folds.

    Args:
        comparisons: of `compare_layers` or `load_comparison`, of different names.
        path: file to write.
        title: of the page.

    Raises:
        ValueError: no comparison, or two of one name.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.0, times=[0.2, 0.5])
        >>> layers = {"a": statistics, "b": path.statistics(0), "c": path.statistics(1)}
        >>> comparison = pnc.compare_layers(layers, name="a path", lambda_w=0.1, pairs=False)
        >>> pnc.write_report([comparison], "report.html")

    See Also:
        compare_layers: what it takes. error_table: its numbers. plot_comparison: a figure alone.
    """
    remedy = "pass a list of results of compare_layers"
    instance(comparisons, Sequence, "comparisons", remedy)
    for comparison in comparisons:
        instance(comparison, xr.Dataset, "comparisons", remedy)
    names = [str(comparison.attrs["name"]) for comparison in comparisons]
    if not names:
        raise ValueError("comparisons must hold at least one comparison, got none")
    if len(set(names)) < len(names):
        raise ValueError(f"comparisons must differ in name, got {names}; rename one of the files")
    page = _page(comparisons, title)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf8")


def sections(comparison: xr.Dataset) -> list[Section]:
    """What the page says of one network, in this order."""
    errors = judged_errors([comparison]).isel(network=0)
    return [
        verdict.section(comparison, errors),
        collapse.section(comparison),
        along.section(comparison),
        places.section(comparison),
        spectrum.section(comparison),
        *bench.sections(comparison),
        tables.section(comparison, errors),
    ]


def _page(comparisons: Sequence[xr.Dataset], title: str) -> str:
    networks = [_network(number, c) for number, c in enumerate(comparisons, start=1)]
    drawn = {f"{n['id']}-{f.key}": f for n in networks for s in n["sections"] for f in _figures(s)}
    summary = None
    if len(comparisons) > 1:
        links = [f"#{network['id']}" for network in networks]
        summary = overview.section(comparisons, judged_errors(comparisons), links)
        drawn |= {f"summary-{figure.key}": figure for figure in _figures(summary)}
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
        figures=_packed(json_text({key: vars(f) for key, f in drawn.items()}, indent=None)),
        css=_colours() + _asset("report.css"),
        js=_asset("report.js"),
        plotly=_packed(get_plotlyjs()),
    )


def _network(number: int, comparison: xr.Dataset) -> dict[str, Any]:
    """What the template shows of one comparison."""
    name = str(comparison.attrs["name"])
    return {"id": f"network-{number}", "name": name, "sections": sections(comparison)}


def _figures(section: Section) -> list[Figure]:
    return list(figures_in(section.parts))


def _packed(text: str) -> str:
    """Compressed, as base64: the page unpacks it, and is a third of the size."""
    return base64.b64encode(gzip.compress(text.encode("utf8"), mtime=0)).decode("ascii")


def _colours() -> Markup:
    """The colours of the sides as the style sheet's --mark-0, --mark-1, …"""
    sides = enumerate([*(SIDES[name] for name in DRAWN), *bench.MARKS.values()])
    pairs = [f"--mark-{i}: light-dark({side.light}, {side.dark});" for i, side in sides]
    return Markup(":root { " + " ".join(pairs) + " }\n")


def _asset(name: str) -> Markup:
    return Markup(
        files("perturb_nc.show.report").joinpath("templates", name).read_text(encoding="utf8")
    )

"""The bench of the theories of depth, drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from perturb_nc.show.labels import THEORIES as SIDES
from perturb_nc.show.labels import literal, symbol
from perturb_nc.show.panels import AxesArray, by_layer, drawn, legend, logarithmic, panels, whole

ALONG = ("nc1", "directional_cdnv", "nc2_etf", "nc1_trace", "cdnv", "discrimination")
"""Quantities that the figure draws unless told otherwise."""


def plot_bench(
    bench: xr.Dataset,
    *,
    metrics: Sequence[str] = ALONG,
    theories: Sequence[str] | None = None,
    ax: Any = None,
) -> AxesArray:
    """Metrics by layer: measured, and as each theory of depth predicts them without having seen.

    Args:
        bench: of `theories_of_depth`, of one network.
        metrics: quantities that it holds.
        theories: which to draw, by default all that predict something.
        ax: one axes for each of `metrics`; by default those of a new figure.

    Raises:
        ValueError: a metric or theory that it does not hold, or not as many axes as metrics.
    """
    held, models = bench["quantity"].values.tolist(), bench["model"].values.tolist()
    for name, asked, known in (("metrics", metrics, held), ("theories", theories or (), models)):
        if unknown := [each for each in asked if each not in known]:
            raise ValueError(f"{name} must be among {', '.join(known)}, got {unknown}")
    names = [str(name) for name in bench["layer"].values]
    says = bench["predicted"].sel(quantity=list(metrics)).notnull().any(("layer", "quantity"))
    chosen = [n for n in theories or models if theories or says.sel(model=n)]
    axes = panels(metrics, ax)
    for axis, metric in zip(axes, metrics, strict=True):
        for name in chosen:
            values = bench["predicted"].sel(model=name, quantity=metric).values
            known = np.isfinite(values).nonzero()[0]
            style = drawn(SIDES[name]) | {"lw": 1, "ms": 4}
            axis.plot(known, values[known], **style, label=name.replace("_", " "))
        measured = bench["measured"].sel(quantity=metric).values
        axis.plot(range(len(names)), measured, **drawn(SIDES["measured"]), lw=2, label="measured")
        logarithmic(axis)
        by_layer(axis, names)
        axis.set_xlim(-0.4, len(names) - 0.6)
    return legend(axes)


def figure(bench: xr.Dataset, *, title: str) -> Figure:
    """The figure of a network's bench, for a file."""
    placed = symbol(bench.attrs["metric"])
    said = f"{literal(title)}: each layer predicted without having been seen, placed by {placed}"
    return whole(plot_bench, bench, title=said, metrics=ALONG)

"""What the plots share: axes to draw on, one a quantity, their style and their legend."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from perturb_nc.show.labels import LABELS, Side, literal

AxesArray = NDArray[np.object_]
ALONG = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
"""Metrics that the plots draw unless told otherwise."""
_WIDE, _HIGH = 4.2, 3.0  # inches of a panel


def panels(quantities: Sequence[str], ax: Any) -> AxesArray:
    """One axes a quantity, those given or those of a new figure of pyplot, named and styled.

    Raises:
        ValueError: no quantity, or not as many axes as quantities.
    """
    if not quantities:
        raise ValueError("metrics must name at least one quantity, got none")
    if ax is None:
        from matplotlib import pyplot

        rows, columns = grid(len(quantities))
        size = (_WIDE * columns, _HIGH * rows)
        figure = pyplot.figure(figsize=size, layout="constrained")
        axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(quantities))]
    else:
        axes = list(np.ravel(ax))
    if len(axes) != len(quantities):
        raise ValueError(
            f"ax must hold one axes for each of {', '.join(quantities)}, got {len(axes)}"
        )
    for axis, quantity in zip(axes, quantities, strict=True):
        style(axis, LABELS[quantity].title if quantity in LABELS else literal(quantity))
    return np.array(axes, dtype=object)


def whole(plot: Callable[..., AxesArray], *given: Any, title: str, **options: Any) -> Figure:
    """A figure of one plot with a title and its legend below, free of pyplot: for files."""
    count = len(options.get("metrics", ALONG))
    rows, columns = grid(count)
    figure = Figure(figsize=(_WIDE * columns, _HIGH * rows + 0.8), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    plot(*given, ax=axes, **options)
    handles, labels = axes[0].get_legend_handles_labels()
    if (legend := axes[0].get_legend()) is not None:
        legend.remove()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def grid(count: int) -> tuple[int, int]:
    """Rows and columns of so many panels."""
    columns = count if count < 4 else (count + 1) // 2
    return -(-count // columns), columns


def drawn(side: Side) -> dict[str, Any]:
    """Colour, marker and line of a side."""
    return {"color": side.light, "marker": side.marker, "ls": side.line, "ms": 5}


def style(axis: Axes, title: str) -> None:
    """A quantity's name above, a quiet grid, no box."""
    axis.set_title(title, fontsize=10, loc="left")
    axis.grid(axis="y", alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def by_layer(axis: Axes, names: Sequence[str]) -> None:
    """Names of layers below an axis, so many as there is room for."""
    step = -(-len(names) // 20)
    places = range(0, len(names), step)
    shown = [literal(name) for name in names][::step]
    axis.set_xticks(places, shown, rotation=30, ha="right", fontsize=8)


def logarithmic(axis: Axes) -> None:
    """A logarithmic scale where what is drawn is positive and spans more than a decade."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines])
    values = values[np.isfinite(values)]
    if len(values) and values.max() > 10 * values.min() > 0:
        axis.set_yscale("log")


def legend(axes: AxesArray) -> AxesArray:
    """What the first axes shows, named on it; the axes again."""
    axes[0].legend(frameon=False, fontsize=8)
    return axes

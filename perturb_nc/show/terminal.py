"""Tables and lines on the terminal, and what tables of layers share."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from perturb_nc.metrics.table import CollapseMetrics
from perturb_nc.show.labels import number, printable
from perturb_nc.statistics import ClassStatistics

_NOTES = 3
NAME = 20  # characters of a layer's name on one line


def show(*parts: Table | str) -> None:
    """Print tables and lines; lines are left for the terminal to wrap, so that paths copy."""
    console = Console(markup=False, emoji=False)  # names may hold brackets and colons
    for part in parts:
        if isinstance(part, str):
            console.print(printable(part), soft_wrap=True)
        else:
            console.print(_printable_table(part))


def _printable_table(table: Table) -> Table:
    """The table, its names without commands to the terminal."""
    if isinstance(table.title, str):
        table.title = printable(table.title)
    for column in table.columns:
        column.header = printable(str(column.header))
        column._cells = [printable(str(cell)) for cell in column.cells]
    return table


def of_one_width(
    layers: Mapping[str, ClassStatistics], start: str | None
) -> tuple[dict[str, ClassStatistics], list[str]]:
    """The layers from `start` (or the first) on that share its shape, and the names of the rest."""
    names = list(layers)
    if start is not None and start not in layers:
        raise ValueError(f"there is no layer {start!r}; the layers are {names}")
    later = names[0 if start is None else names.index(start) :]
    shape = layers[later[0]].means.shape
    kept = {name: layers[name] for name in later if layers[name].means.shape == shape}
    return kept, [name for name in later if name not in kept]


def first(notes: Sequence[str]) -> list[str]:
    """The first few notes, and how many more there are."""
    more = len(notes) - _NOTES
    return [*notes[:_NOTES], *([f"{more} more such notes: --all"] if more > 0 else [])]


def spread(count: int, most: int) -> list[int]:
    """Places of at most so many of them, evenly, first and last among them."""
    return sorted({round(row * (count - 1) / (most - 1)) for row in range(most)})


def layer_table(title: str, labels: Sequence[str]) -> Table:
    """An empty table with a row for each layer and narrow columns of numbers."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", overflow="fold", max_width=NAME)
    for label in labels:
        table.add_column(label.replace(" ", "\n"), justify="right", no_wrap=True)
    return table


def title_of(values: Mapping[str, float]) -> str:
    """Names and values on one line."""
    return ", ".join(f"{name} {value:g}" for name, value in values.items())


def cells_of(metrics: CollapseMetrics, names: Sequence[str]) -> list[str]:
    """Some of the metrics as text."""
    return [number(getattr(metrics, name)) for name in names]

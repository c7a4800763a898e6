"""Epochs as the rows of a CSV table, one for each layer, which spreadsheets open as text.

A spreadsheet runs a cell that begins with = + - @ as a formula. Texts and names that do get a '
before them, one that has such marks already another: what is read is what was written.
"""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def columns(records: Iterable[Mapping[str, Any]], there: list[str]) -> list[str]:
    """Those of `there` and of the records: what is of an epoch, "layer", and the metrics."""
    split = there.index("layer") if there else 0
    common, metrics = there[:split], there[split + 1 :]
    for record in records:
        common += [name for name in record if name not in (*common, "layers")]
        for of_layer in record["layers"].values():
            metrics += [name for name in of_layer if name not in metrics]
    common = [name for name in common if name not in metrics]
    return [*common, "layer", *metrics]


def rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One for each layer."""
    common = {key: value for key, value in record.items() if key != "layers"}
    return [common | {"layer": name} | dict(of) for name, of in record["layers"].items()]


def table_text(cells: Iterable[Mapping[str, Any]], names: list[str], *, header: bool) -> str:
    """Lines of the table; "" for what a row has not."""
    lines: list[list[Any]] = [names] if header else []
    lines += [[row.get(name) for name in names] for row in cells]
    return "".join(map(_line, lines))


def read_table(content: bytes) -> tuple[list[str], list[dict[str, str]]]:
    """Names of columns and the texts of rows.

    Raises:
        ValueError: no table of epochs, or rows of another width than its first, which would lose
            cells.
    """
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf8"), newline=""), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from error
    names = _names(lines[0] if lines else [])
    width = len(set(names))
    for number, line in enumerate(lines, start=1):
        if len(line) != width:
            raise ValueError(f"row {number} has {len(line)} cells, and {width} are named")
    return names, [dict(zip(names, map(_unmarked, line), strict=True)) for line in lines[1:]]


def read_header(path: Path) -> list[str]:
    """Names of the columns; none of a file that is not there or empty.

    Raises:
        ValueError: no table of epochs.
    """
    if not path.is_file() or not path.stat().st_size:
        return []
    with path.open(encoding="utf8", newline="") as file:
        return _names(next(csv.reader(file)))


def read_records(content: bytes) -> dict[int, dict[str, Any]]:
    """Epoch → record of a table, of repeated ones the last; None for cells without a value.

    Raises:
        ValueError: no table of epochs.
    """
    if not content:
        return {}
    names, table = read_table(content)
    split = names.index("layer")
    records: dict[int, dict[str, Any]] = {}
    last = None
    for row in table:
        epoch, layer = int(row["epoch"]), row["layer"]
        if epoch != last or layer in records[epoch]["layers"]:  # new, or measured again
            common = {name: _value(row[name]) for name in names[1:split]}
            records[epoch] = {"epoch": epoch, **common, "layers": {}}
        records[epoch]["layers"][layer] = {name: _value(row[name]) for name in names[split + 1 :]}
        last = epoch
    return records


def _names(cells: list[str]) -> list[str]:
    names = [_unmarked(cell) for cell in cells]
    if names[:1] != ["epoch"] or "layer" not in names:
        raise ValueError("its first line does not name the columns of a monitor")
    return names


def _line(cells: list[Any]) -> str:
    line = io.StringIO(newline="")
    csv.writer(line).writerow(map(_marked, cells))  # its \r\n makes it quote \r in names too
    return line.getvalue().removesuffix("\r\n") + "\n"


def _marked(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unmarked(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _value(cell: str) -> Any:
    """A number, True, False or a text; None for "" and for what is not finite, as in JSON."""
    if cell in ("", "True", "False"):
        return {"": None, "True": True, "False": False}[cell]
    for kind in () if "_" in cell else (int, float):
        with suppress(ValueError):
            number = kind(cell)
            return number if math.isfinite(number) else None
    return cell

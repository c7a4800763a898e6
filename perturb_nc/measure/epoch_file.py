"""Files of metrics per epoch, added to epoch by epoch: JSON lines and CSV."""

import csv
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturb_nc.storage import json_text


def read_epochs(path: str | Path) -> list[dict[str, Any]]:
    """The epochs of a ".jsonl" of a `CollapseMonitor`, by number; of repeated ones the last.

    A last line without its end, which a kill or a running monitor leaves, is skipped.
    """
    text = Path(path).read_text(encoding="utf8")
    whole = text[: text.rfind("\n") + 1]
    records = {r["epoch"]: r for r in map(json.loads, whole.splitlines())}
    return [records[epoch] for epoch in sorted(records)]


class EpochFile:
    """Appends records; each in one write, so that a kill leaves at most one cut-off line.

    Raises:
        ValueError: a path of another kind, or a ".csv" with other columns.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in (".jsonl", ".csv"):
            raise ValueError(f"path must end in .jsonl or .csv, got {path}")
        self._path, self._csv = path, path.suffix == ".csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            content = path.read_bytes()
            if not content.endswith(b"\n"):
                os.truncate(path, content.rfind(b"\n") + 1)

    def read(self) -> list[dict[str, Any]]:
        """The epochs there are; none of a ".csv"."""
        return read_epochs(self._path) if self._path.is_file() and not self._csv else []

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one epoch: scalars, and "layers" with the metrics of each."""
        text = self._rows(record) if self._csv else json_text(record, indent=None) + "\n"
        with self._path.open("ab", buffering=0) as file:
            file.write(text.encode("utf8"))

    def _rows(self, record: Mapping[str, Any]) -> str:
        lines = io.StringIO()
        writer = csv.writer(lines, lineterminator="\n")
        common = {key: value for key, value in record.items() if key != "layers"}
        header = [*common, "layer", *next(iter(record["layers"].values()))]
        if self._path.is_file() and self._path.stat().st_size:
            with self._path.open(encoding="utf8") as file:
                there = next(csv.reader(file))
            if there != header:
                raise ValueError(f"{self._path} has columns {there}, now {header}; give a new path")
        else:
            writer.writerow(header)
        for layer, values in record["layers"].items():
            writer.writerow([*common.values(), layer, *values.values()])
        return lines.getvalue()

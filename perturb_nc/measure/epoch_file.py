"""Files of metrics per epoch, added to epoch by epoch: JSON lines and CSV."""

import errno
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perturb_nc.measure.epoch_table import (
    columns,
    read_header,
    read_records,
    read_table,
    rows,
    table_text,
)
from perturb_nc.storage import existing, json_text, local, replacing

_STARTS = {".jsonl": b'{"epoch"', ".csv": b"epoch,"}


def read_epochs(path: str | Path) -> list[dict[str, Any]]:
    """The epochs of a file of a `CollapseMonitor`, by number; of repeated ones the last.

    A last line that a kill or a running monitor left unfinished is skipped. Of a ".csv", what an
    epoch has no value of is None, and texts that read as numbers are numbers.

    Raises:
        ValueError: another kind of file, or a line that is no epoch of a monitor.
    """
    path = _of_epochs(path)
    content = existing(path).read_bytes()
    if path.suffix == ".csv":
        try:
            records = read_records(content[: content.rfind(b"\n") + 1])
        except ValueError as error:
            raise ValueError(
                f"{path} holds other things than the epochs of a monitor ({error}); give a new path"
            ) from error
        return [records[epoch] for epoch in sorted(records)]
    # Not splitlines(): names may hold other ends of lines than \n, as U+2028.
    *lines, tail = content.split(b"\n")
    records = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        record = _record(line)
        if record is None:
            raise ValueError(
                f"{path} holds other things than the epochs of a monitor (line {number}); give a "
                "new path, or take the line out"
            )
        records[record["epoch"]] = record
    if (last := _record(tail)) is not None:
        records[last["epoch"]] = last
    return [records[epoch] for epoch in sorted(records)]


class EpochFile:
    """Appends records: whole lines or nothing, whatever the disk does.

    What the disk does not take is kept, with a warning, and written with the next record. A last
    line that a kill cut off is moved to a file beside, PATH.torn, by the first record.

    Raises:
        ValueError: a path of another kind, a URL, or a file that no monitor wrote; it stays as
            it is.
    """

    def __init__(self, path: str | Path) -> None:
        path = _of_epochs(path)
        if path.exists() and not path.is_file():
            raise ValueError(f"path must be a regular file, got {path}; give another")
        self._path, self._csv = path, path.suffix == ".csv"
        self._waiting: list[Mapping[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self._check()

    def read(self) -> list[dict[str, Any]]:
        """The epochs there are."""
        return read_epochs(self._path) if self._path.is_file() else []

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one epoch: scalars, and "layers" with the metrics of each."""
        self._waiting.append(record)
        try:
            end = self._mend()
            if self._csv:
                self._append_rows()
            else:
                lines = (json_text(r, indent=None) + "\n" for r in self._waiting)
                self._write(end + "".join(lines))
        except (OSError, ValueError) as error:  # also of a table that others changed meanwhile
            warnings.warn(
                f"{self._path} could not be written ({error}); {len(self._waiting)} epoch(s) are "
                "kept and written with the next one",
                stacklevel=3,
            )
        else:
            self._waiting = []

    def _check(self) -> None:
        """Nothing but the work of a monitor is added to."""
        content = self._path.read_bytes()
        if not content:
            return
        start = _STARTS[self._path.suffix]
        if not content.startswith(start[: len(content)]):
            raise ValueError(
                f"{self._path} is no file of a monitor, and is left as it is; give a new path"
            )
        self.read()

    def _mend(self) -> str:
        """Moves a cut-off last line aside; what must come before the next line."""
        if not self._path.is_file():
            return ""
        with self._path.open("r+b") as file:
            if file.seek(0, os.SEEK_END) == 0:
                return ""
            file.seek(-1, os.SEEK_END)
            if file.read() == b"\n":
                return ""
            file.seek(0)
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if not self._csv and _record(content[whole:]) is not None:
                return "\n"  # only the end of the line is missing
            with self._path.with_name(f"{self._path.name}.torn").open("ab") as torn:
                torn.write(content[whole:] + b"\n")
            file.truncate(whole)
        return ""

    def _write(self, text: str) -> None:
        with self._path.open("ab", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            left = memoryview(text.encode("utf8"))
            try:
                while left:  # a disk that is nearly full takes a part and says so only here
                    written = file.write(left)
                    if not written:
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                    left = left[written:]
            except BaseException:
                file.truncate(size)
                raise

    def _append_rows(self) -> None:
        cells = [row for record in self._waiting for row in rows(record)]
        there = read_header(self._path)
        names = columns(self._waiting, there)
        if not there or names == there:
            self._write(table_text(cells, names, header=not there))
        else:  # a new column: the whole file again, at once
            before = read_table(self._path.read_bytes())[1]
            with replacing(self._path) as temporary:
                text = table_text([*before, *cells], names, header=True)
                temporary.write_bytes(text.encode("utf8"))


def _of_epochs(path: str | Path) -> Path:
    path = local(path)
    if path.suffix not in _STARTS:
        raise ValueError(f"path must end in .jsonl or .csv, got {path}")
    return path


def _record(line: bytes) -> dict[str, Any] | None:
    """The epoch on a line; None when it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    ours = isinstance(record, dict) and isinstance(record.get("epoch"), int)
    return record if ours and isinstance(record.get("layers"), dict) else None

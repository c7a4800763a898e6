"""Files of metrics per epoch, added to epoch by epoch: JSON lines and CSV."""

import csv
import errno
import io
import json
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perturb_nc.storage import json_text, local, replacing

_STARTS = {".jsonl": b'{"epoch"', ".csv": b"epoch,"}


def read_epochs(path: str | Path) -> list[dict[str, Any]]:
    """The epochs of a ".jsonl" of a `CollapseMonitor`, by number; of repeated ones the last.

    A last line that a kill or a running monitor left unfinished is skipped.

    Raises:
        ValueError: a line that is no epoch of a monitor.
    """
    path = Path(path)
    # Not splitlines(): names may hold other ends of lines than \n, as U+2028.
    *lines, tail = path.read_bytes().split(b"\n")
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

    def __init__(self, path: Path) -> None:
        local(path)
        if path.suffix not in _STARTS:
            raise ValueError(f"path must end in .jsonl or .csv, got {path}")
        if path.exists() and not path.is_file():
            raise ValueError(f"path must be a regular file, got {path}; give another")
        self._path, self._csv = path, path.suffix == ".csv"
        self._waiting: list[Mapping[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            self._check()

    def read(self) -> list[dict[str, Any]]:
        """The epochs there are; none of a ".csv"."""
        return read_epochs(self._path) if self._path.is_file() and not self._csv else []

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
        except OSError as error:
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
        ours = content.startswith(start[: len(content)])
        if ours and b"\n" in content and self._csv:
            ours = _is_table(content[: content.rfind(b"\n") + 1])
        if not ours:
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
        rows = [row for record in self._waiting for row in _rows(record)]
        columns = list(dict.fromkeys(name for row in rows for name in row))
        there = self._header()
        new = [name for name in columns if name not in there]
        if there and not new:
            self._write(_csv_text(rows, there))
        elif not there:
            self._write(_csv_text([dict(zip(columns, columns, strict=True)), *rows], columns))
        else:  # a new column: the whole file again, at once
            with self._path.open(encoding="utf8", newline="") as file:
                rows = [*csv.DictReader(file), *rows]
            columns = [*there, *new]
            with replacing(self._path) as temporary:
                text = _csv_text([dict(zip(columns, columns, strict=True)), *rows], columns)
                temporary.write_bytes(text.encode("utf8"))

    def _header(self) -> list[str]:
        if not self._path.is_file():
            return []
        try:
            with self._path.open(encoding="utf8", newline="") as file:
                return next(csv.reader(file), [])
        except (UnicodeDecodeError, csv.Error):
            return []


def _is_table(content: bytes) -> bool:
    """Whether whole lines of a ".csv" are rows of one header, so that none gets lost with it."""
    try:
        rows = list(csv.reader(io.StringIO(content.decode("utf8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return False
    width = len(set(rows[0]))
    return "layer" in rows[0] and all(len(row) == width for row in rows)


def _record(line: bytes) -> dict[str, Any] | None:
    """The epoch on a line; None when it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    ours = isinstance(record, dict) and isinstance(record.get("epoch"), int)
    return record if ours and isinstance(record.get("layers"), dict) else None


def _rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    common = {key: value for key, value in record.items() if key != "layers"}
    return [common | {"layer": name} | dict(of) for name, of in record["layers"].items()]


def _csv_text(rows: Iterable[Mapping[str, Any]], columns: list[str]) -> str:
    lines = io.StringIO(newline="")
    csv.DictWriter(lines, columns, lineterminator="\n").writerows(rows)
    return lines.getvalue()

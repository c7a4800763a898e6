"""The chunks of a sweep's store, read one by one where one of them is damaged."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
import xarray as xr

Part = dict[str, slice]


def load_whole(path: Path, lazy: xr.Dataset) -> tuple[xr.Dataset, int]:
    """The dataset with what is damaged or missing set to NaN and pending; how many settings.

    Raises:
        Exception: whatever zarr makes of damaged axes, which leave nothing to go on from.
    """
    bad: list[Part] = []
    missing: list[Part] = []
    whole: dict[str, xr.Variable] = {}  # which, unlike arrays with axes, need no alignment
    for name, variable in lazy.data_vars.items():
        parts = list(_parts(variable))
        try:
            values = variable.load()
        except MemoryError:
            raise
        except Exception:  # of zarr, numcodecs, blosc: whatever a flipped bit makes them say
            values, unreadable = _piece_by_piece(variable, [part for _, part in parts])
            bad += unreadable
        whole[str(name)] = values.variable
        if variable.encoding.get("filters"):  # else chunks of nothing but fill values are left out
            there = {entry.name for entry in (path / str(name)).iterdir()}
            missing += [part for key, part in parts if key not in there]
    loaded = xr.Dataset(whole, lazy.coords, lazy.attrs).load()
    status = loaded["status"]
    gone = np.zeros(status.shape, bool)
    for part in bad:
        gone[_cells(status, part, lazy["status"].encoding["chunks"])] = True
    for part in missing:
        where = _cells(status, part, lazy["status"].encoding["chunks"])
        gone[where] |= status.values[where] != 0
    status.values[gone] = 0
    return loaded.drop_encoding(), int(gone.sum())


def _cells(status: xr.DataArray, part: Part, chunks: tuple[int, ...]) -> tuple[slice, ...]:
    """The settings of a chunk; a flow has no β and is computed with the first piece along it."""
    sizes = zip(map(str, status.dims), chunks, strict=True)
    return tuple(part.get(dim, slice(0, size)) for dim, size in sizes)


def _parts(variable: xr.DataArray) -> Iterator[tuple[str, Part]]:
    """Name and place of every chunk."""
    chunks = variable.encoding["chunks"]
    counts = [range(-(-size // step)) for size, step in zip(variable.shape, chunks, strict=True)]
    for key in product(*counts):
        slices = [slice(i * step, (i + 1) * step) for i, step in zip(key, chunks, strict=True)]
        part = dict(zip(map(str, variable.dims), slices, strict=True))
        yield ".".join(map(str, key)), part


def _piece_by_piece(variable: xr.DataArray, parts: list[Part]) -> tuple[xr.DataArray, list[Part]]:
    fill = np.nan if variable.dtype.kind == "f" else 0
    values, bad = np.full(variable.shape, fill, variable.dtype), []
    for part in parts:
        try:
            values[tuple(part.values())] = variable[part].values
        except MemoryError:
            raise
        except Exception:
            bad.append(part)
    return variable.copy(data=values), bad

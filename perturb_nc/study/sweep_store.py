"""A sweep on disk: a zarr store that fills chunk by chunk, and tells what is still to do.

Every chunk of every array belongs to one piece of the sweep and is one file with a checksum, which
zarr replaces at once. `status` is written last, so that a piece whose status is not "pending" is
there as a whole; what is damaged or missing all the same is pending again.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numcodecs import CRC32
from numpy.typing import NDArray

from perturb_nc.leftovers import remove_leftovers, temporary_name
from perturb_nc.storage import local, say_unchecked, writable_folder
from perturb_nc.study.sweep_chunks import load_whole
from perturb_nc.study.sweep_plan import DERIVED, METRICS, SCALARS, STATUSES, Region
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.validation import affordable

_COMPARED = ("perturb_nc_version", "statistics_sha256")
_MINUTE = 60.0
_log = logging.getLogger("perturb_nc")


class SweepStore:
    """The zarr store of one sweep, made with its first piece if it is not there.

    Two sweeps of the same arguments may fill one store.

    Args:
        path: folder of the store.
        empty: the dataset of the sweep with nothing in it, for its layout and provenance.
        block_shape: dimension → size of a piece.

    Raises:
        ValueError: a URL, or a store of another sweep, or something else, at `path`.
        OSError: a place that cannot be written to.
    """

    def __init__(self, path: str | Path, empty: xr.Dataset, block_shape: Mapping[str, int]) -> None:
        self._path, self._empty, self._block_shape = local(path, "store"), empty, block_shape
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self.dataset = empty
        writable_folder(self._path.parent)
        with suppress(FileNotFoundError):
            os.lstat(self._path)  # a name that is too long is refused before any work
        if os.path.lexists(self._path):
            self.dataset = open_sweep(self._path)
            _check_same(self._path, self.dataset, empty)
            _check_whole(self._path, self.dataset, empty)
            _remove_partial(self._path)

    def write(self, region: Region, names: list[str]) -> None:
        """Write a piece of `dataset`, its status last."""
        if not self._arrays:
            self._open()
        for name in sorted(names, key=lambda name: name == "status"):
            variable = self.dataset[name]
            index = tuple(region.get(str(dim), slice(None)) for dim in variable.dims)
            values: NDArray[np.generic] = variable.values[index]
            self._arrays[name][index] = values

    def _open(self) -> None:
        if not self._path.exists():
            _create(self._path, self._empty, self._block_shape)
        # Chunks of nothing but the fill value too: one that is not there has been lost.
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(self._path, mode="r+")
            _check_same(self._path, xr.Dataset(attrs=dict(group.attrs)), self._empty)
            self._arrays = dict(group.arrays())


def open_sweep(path: str | Path) -> xr.Dataset:
    """The dataset of a store written by `sweep`, finished or not, in memory.

    Pieces that are damaged or missing are pending, which is logged.

    Raises:
        FileNotFoundError, ValueError: nothing at `path`, or not a sweep.
    """
    path = local(path)
    if not path.exists():
        raise FileNotFoundError(f"no store at {path}; make one with sweep(..., store=...)")
    remedy = f"{path} is not the store of a sweep, or damaged; give another path"
    try:
        _check_metadata(path)
        lazy = xr.open_zarr(path, chunks=None, consolidated=True)
        affordable(lazy.nbytes, f"the sweep {path}", "check where it comes from")
        dataset, lost = load_whole(path, lazy)
        complete = _is_sweep(dataset)
    except MemoryError:
        raise
    except Exception as error:  # a damaged store makes zarr raise whatever it likes
        raise ValueError(remedy) from error
    if not complete:
        raise ValueError(remedy)
    if lost:
        _log.warning("%s: %d damaged or missing settings are pending again", path, lost)
    if not lazy["status"].encoding.get("filters"):
        say_unchecked(path)
    return dataset


def _check_metadata(path: Path) -> None:
    """ValueError unless every array says of itself what the store says of it."""
    for name, record in json.loads((path / ".zmetadata").read_text("utf8"))["metadata"].items():
        if json.loads((path / name).read_text("utf8")) != record:
            raise ValueError(f"{name} differs from what the store says of it")


def _is_sweep(dataset: xr.Dataset) -> bool:
    """Whether provenance, axes and variables are those that `empty_dataset` lays out."""
    arguments = json.loads(dataset.attrs["arguments"])
    axes = ("setting",) if arguments["zipped"] else HYPERPARAMETERS
    sizes = [dataset.attrs[name] for name in ("num_classes", "dim", "num_samples")]
    # Stores from before a metric was added hold those there were.
    known = [name for name in METRICS if name in dataset or name in DERIVED]
    solved = [dataset[name] for name in (*known, *SCALARS, "status")]
    slopes = [dataset[f"{name}_derivative"] for name in DERIVED]
    return (
        all(name in dataset.attrs for name in _COMPARED)
        and all(isinstance(size, int) for size in sizes)
        and all(dataset[name].values.tolist() == arguments[name] for name in HYPERPARAMETERS)
        and all(variable.dims == axes for variable in solved)
        and all(variable.dims == (*axes, "parameter") for variable in slopes)
        and dataset["singular_values"].dims == (*axes, "singular_value")
        and dataset["is_global"].dims == axes
        and all(variable.dtype.kind in "fiub" for variable in dataset.data_vars.values())
        and dataset["parameter"].values.tolist() == list(HYPERPARAMETERS)
        and bool(dataset["status"].isin(range(len(STATUSES))).all())
    )


def _create(path: Path, empty: xr.Dataset, block_shape: Mapping[str, int]) -> None:
    """The store beside `path` and then in its place: no half-made one is ever there.

    Of `empty` it takes the layout alone: what a sweep has put in since belongs to a piece, whose
    status must not be there before all the rest. Where another sweep was faster, its store stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary = path.with_name(temporary_name())
    encoding = {
        name: {
            "chunks": tuple(block_shape.get(str(d), n) for d, n in variable.sizes.items()),
            "filters": [CRC32()],
        }
        for name, variable in empty.data_vars.items()
    }
    encoding |= {name: {"filters": [CRC32()]} for name in empty.coords if name != "parameter"}
    try:
        # Format 2, in which strings and consolidated metadata have a specification.
        layout = empty.map(_nothing, keep_attrs=True)
        layout.to_zarr(temporary, zarr_format=2, consolidated=True, encoding=encoding)
        os.replace(temporary, path)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _nothing(variable: xr.DataArray) -> xr.DataArray:
    """NaN, 0 or False everywhere, in the memory of one number."""
    fill = np.array(np.nan if variable.dtype.kind == "f" else 0, variable.dtype)
    return variable.copy(data=np.broadcast_to(fill, variable.shape))


def _remove_partial(path: Path) -> None:
    """Remove what zarr was writing when a kill came; another sweep may be writing now."""
    for partial in path.rglob("*.partial"):
        if time.time() - partial.stat().st_mtime > _MINUTE:
            partial.unlink(missing_ok=True)


def _check_same(path: Path, found: xr.Dataset, wanted: xr.Dataset) -> None:
    theirs, own = (json.loads(dataset.attrs["arguments"]) for dataset in (found, wanted))
    theirs = {"method": "exact", "loss": "squared"} | theirs  # older stores know no other
    differing = [name for name in _COMPARED if found.attrs[name] != wanted.attrs[name]]
    differing += [name for name in own if own[name] != theirs.get(name)]
    if differing:
        raise ValueError(
            f"{path} holds a sweep with other {', '.join(differing)}; "
            "repeat its arguments to go on with it, or give another store"
        )


def _check_whole(path: Path, found: xr.Dataset, wanted: xr.Dataset) -> None:
    if missing := [str(name) for name in wanted.data_vars if name not in found]:
        raise ValueError(
            f"{path} was begun before {', '.join(missing)} were measured; read it with "
            "open_sweep, and give another store to go on"
        )

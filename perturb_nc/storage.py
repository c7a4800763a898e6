"""Files: atomic writing, safetensors with metadata, and the formats users bring."""

import json
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4
from zipfile import ZipExtFile, ZipFile, is_zipfile

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.lib import format as npy
from torch import Tensor

from perturb_nc.validation import affordable


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` at once.

    An interruption leaves the old file whole and no half-written new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid4().hex}-{path.name}")  # keeps the suffix: writers read it
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors and string metadata as one safetensors file, atomically."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        # Not save_file, which makes its files private to the user.
        temporary.write_bytes(safetensors.torch.save(on_cpu, dict(metadata)))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; ValueError when it is not one."""
    path = existing(path)
    with _parsing(path, "a safetensors file"), safetensors.safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors = {name: _plain_tensor(file.get_tensor(name), name) for name in names}
        return tensors, file.metadata() or {}


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """Named arrays of a .npz, .npy, .pt/.pth or .safetensors file.

    A file holding a single unnamed array gives {"": array}. Nothing is unpickled but tensors, and
    nothing is allocated that the file does not hold.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds something else.
        MemoryError: a compressed file that does not fit into memory.
    """
    path = existing(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return read_tensors(path)[0]
    if suffix in (".pt", ".pth"):
        loaded = load_tensors(path)
        items = loaded.items() if isinstance(loaded, dict) else [("", loaded)]
        with _parsing(path, suffix):
            return {str(n): _plain_tensor(value, n) for n, value in items if torch.is_tensor(value)}
    if suffix == ".npy":
        with _parsing(path, suffix), path.open("rb") as file:
            return {"": _read_npy(file, path.stat().st_size)}
    if suffix == ".npz":
        with _parsing(path, suffix), _unzipped(path) as archive:
            arrays = {}
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    arrays[entry.filename.removesuffix(".npy")] = _read_npy(file, entry.file_size)
            return arrays
    raise ValueError(f"{path} must end in .npz, .npy, .pt, .pth or .safetensors, got {suffix!r}")


def load_tensors(path: str | Path) -> Any:
    """What torch.save wrote, if that is tensors, numbers, strings and containers of them.

    Raises ValueError for anything else; no code in the file runs.
    """
    path = existing(path)
    with _parsing(path, path.suffix):
        if is_zipfile(path):
            with _unzipped(path):
                pass
        return torch.load(path, map_location="cpu", weights_only=True)


def _read_npy(file: IO[bytes] | ZipExtFile, size: int) -> Tensor:
    """The array in a file of so many bytes, once its header agrees with them."""
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in headers:
        raise ValueError(f"format {version} has no arrays of numbers")
    shape, _, dtype = headers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects; save arrays of numbers")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"its header says {shape} {dtype}, which is not the size of the file")
    file.seek(0)
    return torch.from_numpy(npy.read_array(file, allow_pickle=False))


@contextmanager
def _unzipped(path: Path) -> Iterator[ZipFile]:
    """The archive, if all that it unpacks to fits into memory."""
    with ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
        affordable(size, f"{path}, unpacked,", "check where it comes from")
        yield archive


def _plain_tensor(tensor: Tensor, name: str) -> Tensor:
    """The tensor, if it is as large as its data and torch computes with its dtype."""
    tensor.new_zeros(1).to(torch.complex128)  # raises for packed dtypes
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise ValueError(f"{name} is not a dense tensor with data")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} has shape {tuple(tensor.shape)} without so many numbers")
    return tensor


@contextmanager
def _parsing(path: Path, kind: str) -> Iterator[None]:
    """Whatever a parser makes of a damaged file becomes one ValueError, without its warnings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except MemoryError:
        raise
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"{path} could not be read as {kind}: {reason}") from error


def json_text(record: Any, *, indent: int | None = 1) -> str:
    """A record of dicts, lists, numbers and strings as standard JSON; NaN and ±inf become null.

    One line with indent None.
    """
    return json.dumps(_plain(record), indent=indent, ensure_ascii=False, allow_nan=False)


def write_json(path: str | Path, record: Any) -> None:
    """Write `json_text(record)`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json_text(record) + "\n", encoding="utf8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


def existing(path: str | Path) -> Path:
    """`path` as a Path to a file that is there, or FileNotFoundError."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; check the path")
    return path

"""Files: atomic writing, safetensors with metadata and a digest, and the formats users bring."""

import hashlib
import json
import logging
import math
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from zipfile import ZipExtFile, ZipFile, is_zipfile

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.lib import format as npy
from torch import Tensor

from perturb_nc.leftovers import remove_leftovers, temporary_name
from perturb_nc.validation import affordable, instance

_DIGEST = "perturb_nc_sha256"
_log = logging.getLogger("perturb_nc")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it takes the place of `path` at once.

    An interruption leaves the old file whole and no half-written new one. A link is followed.

    Raises:
        ValueError, OSError: as `writable`.
    """
    path = Path(os.path.realpath(writable(path)))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    temporary = path.with_name(temporary_name(path.suffix))  # the suffix: writers read it
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def writable(path: str | Path) -> Path:
    """`path`, where a file may be written; nothing is made yet.

    Raises:
        ValueError: a URL, or something that is there and is no regular file.
        OSError: a folder on the way that is a file or must not be written to.
    """
    path = local(path)
    if os.path.lexists(path) and not path.is_file() and not _is_absent(path):
        raise ValueError(f"{path} is not a regular file; give another name to write to")
    writable_folder(Path(os.path.realpath(path)).parent)
    return path


def writable_folder(folder: str | Path) -> Path:
    """`folder`, if it can be written to or made.

    Raises:
        ValueError: a URL.
        OSError: it, or a folder on the way, is a file or must not be written to.
    """
    folder = local(folder)
    there = folder
    while not there.exists():
        if there == there.parent:
            break
        there = there.parent
    if not there.is_dir():
        raise NotADirectoryError(f"{there} is not a folder; give another place to write to")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{there} must not be written to; give another place to write to")
    return folder


def local(path: str | Path, name: str = "path") -> Path:
    """`path` as a Path; ValueError for a URL, which would become a folder of that name."""
    instance(path, (str, os.PathLike), name, "give the name of a file or folder, as 'run/a.npz'")
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise ValueError(f"{name} must be a local file, got {path}; copy it there or from there")
    return Path(path)


def _is_absent(path: Path) -> bool:
    """Whether a link leads to a file that is still to be made."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # links in a circle
        return False
    return False


def write_tensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write named tensors, string metadata and a digest as one safetensors file, atomically."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    notes = {**metadata, _DIGEST: _digest(on_cpu, metadata)}
    with replacing(path) as temporary:
        # Not save_file, which makes its files private to the user.
        temporary.write_bytes(safetensors.torch.save(on_cpu, notes))


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        ValueError: it is none, or it is not what `write_tensors` wrote.
    """
    path = existing(path)
    with _parsing(path, "a safetensors file"), safetensors.safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors = {name: _plain_tensor(file.get_tensor(name), name) for name in names}
        metadata = dict(file.metadata() or {})
    wanted = metadata.pop(_DIGEST, None)
    if wanted is not None and wanted != _digest(tensors, metadata):
        raise ValueError(f"{path} is damaged: its checksum differs; copy or write it again")
    if wanted is None and metadata.get("format", "").startswith("perturb_nc."):
        if any(re.fullmatch("[0-9a-f]{64}", value) for value in metadata.values()):
            raise ValueError(f"{path} is damaged: its checksum lost its name; write it again")
        say_unchecked(path)
    return tensors, metadata


def say_unchecked(path: str | Path) -> None:
    """A note to the log, that a file of ours has no checksum."""
    _log.info("%s was written without a checksum: it is read unchecked", path)


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
            with _unzipped(path) as archive:
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"the checksum of {damaged} in it differs; it is damaged")
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

    One line with indent None. Whatever could command a terminal, or end or turn its lines, is
    escaped.
    """
    text = json.dumps(_plain(record), indent=indent, ensure_ascii=False, allow_nan=False)
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


# Those that JSON leaves as they are: C1 and DEL, ends of lines, directions of writing.
_COMMANDS = re.compile("[\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")


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
    path = local(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}; check the path")
    return path

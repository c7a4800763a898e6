"""Files: atomic writing, safetensors with metadata, and the formats users bring."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

_UNREADABLE = (
    ValueError, TypeError, EOFError, OSError, RuntimeError, BadZipFile, UnpicklingError,
)  # fmt: skip


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
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name) for name in names}, file.metadata() or {}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error


def read_arrays(path: str | Path) -> dict[str, Tensor]:
    """Named arrays of a .npz, .npy, .pt/.pth or .safetensors file.

    A file holding a single unnamed array gives {"": array}. Nothing is unpickled.
    """
    path = existing(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        if suffix in (".npy", ".npz"):
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                named = {"": loaded} if suffix == ".npy" else loaded
                return {name: torch.from_numpy(named[name]) for name in named}
        if suffix in (".pt", ".pth"):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
            items = loaded.items() if isinstance(loaded, dict) else [("", loaded)]
            return {str(name): value for name, value in items if torch.is_tensor(value)}
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} could not be read as {suffix}: {reason}") from error
    raise ValueError(f"{path} must end in .npz, .npy, .pt, .pth or .safetensors, got {suffix!r}")


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

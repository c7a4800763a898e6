"""Files in which image data sets are distributed, as uint8 arrays.

Every reader gives the arrays of a cache file: train_images, train_labels, test_images,
test_labels; images (N, C, H, W), labels (N,).
"""

import gzip
import json
import pickle
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import UInt8

Arrays = dict[str, np.ndarray]


def read_idx_folder(folder: Path) -> Arrays:
    """The four IDX files of MNIST and Fashion-MNIST, plain or gzipped, by their usual names."""
    arrays = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        arrays[f"{split}_images"] = read_idx(_one(folder, f"{prefix}-images*", ndim=3))[:, None]
        arrays[f"{split}_labels"] = read_idx(_one(folder, f"{prefix}-labels*", ndim=1))
    return arrays


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """An IDX file of unsigned bytes: 0, 0, type 8, number of axes, big-endian sizes, data."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is damaged ({error}); fetch it again") from error
    if raw[:3] != b"\x00\x00\x08" or len(raw) < 4:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes; fetch it again")
    start = 4 + 4 * raw[3]
    shape = tuple(np.frombuffer(raw[4:start], dtype=">u4").tolist())
    if len(shape) != raw[3] or len(raw) - start != np.prod(shape):
        raise ValueError(
            f"{path} should hold {shape} bytes after its header, got {len(raw) - start}; "
            "the file is cut off, fetch it again"
        )
    return np.frombuffer(raw, dtype=np.uint8, offset=start).reshape(shape)


def read_cifar10_batches(folder: Path) -> Arrays:
    """CIFAR-10, "python version": the pickles data_batch_1..5 and test_batch.

    They are read by an unpickler that knows arrays of numbers and nothing else, so a
    tampered file raises ValueError instead of running code.
    """
    train = [_read_batch(folder / f"data_batch_{i}") for i in range(1, 6)]
    test_images, test_labels = _read_batch(folder / "test_batch")
    return {
        "train_images": np.concatenate([images for images, _ in train]),
        "train_labels": np.concatenate([labels for _, labels in train]),
        "test_images": test_images,
        "test_labels": test_labels,
    }


def read_cifar10_png(folder: Path) -> Arrays:
    """CIFAR-10 as PNG sheets, data_batch_1..5.png and test_batch.png, with labels in JSON.

    Each row of a sheet is one image: 1024 RGB pixels, 32 rows of 32.
    """
    from PIL import Image  # needed here only

    def images(name: str) -> UInt8[np.ndarray, "N 3 32 32"]:
        """The images of a sheet."""
        try:
            with Image.open(_file(folder / name)) as sheet:
                rows = np.asarray(sheet.convert("RGB"))
        except (OSError, SyntaxError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{folder / name} is damaged ({error}); fetch it again") from error
        return rows.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)

    def labels(name: str) -> UInt8[np.ndarray, "N"]:
        """The labels of a list."""
        return np.array(json.loads(_file(folder / name).read_text()), dtype=np.uint8)

    return {
        "train_images": np.concatenate([images(f"data_batch_{i}.png") for i in range(1, 6)]),
        "train_labels": labels("train_lables.json"),  # the publisher's spelling
        "test_images": np.ascontiguousarray(images("test_batch.png")),
        "test_labels": labels("test_lables.json"),
    }


# What a NumPy array of numbers needs, under the module names of old and new NumPy.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")  # they were written by Python 2

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")
        return _ALLOWED[module, name]


def _read_batch(path: Path) -> tuple[UInt8[np.ndarray, "N 3 32 32"], UInt8[np.ndarray, "N"]]:
    try:
        with _file(path).open("rb") as file:
            batch = _ArrayUnpickler(file).load()
        images = np.ascontiguousarray(batch[b"data"], dtype=np.uint8).reshape(-1, 3, 32, 32)
        return images, np.array(batch[b"labels"], dtype=np.uint8)
    except (
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        raise ValueError(f"{path} is not a CIFAR-10 batch: {error}") from error


def _one(folder: Path, pattern: str, *, ndim: int) -> Path:
    found = [path for path in sorted(folder.glob(pattern)) if f"idx{ndim}" in path.name]
    if not found:
        raise FileNotFoundError(
            f"no file {pattern.removesuffix('*')}-idx{ndim}-ubyte (or .gz) in {folder}"
        )
    return found[0]


def _file(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path.name} in {path.parent}")
    return path

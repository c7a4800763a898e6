"""Checks at the door: every message names the argument, the value and the remedy."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

ArrayLike = Any
"""Tensors, NumPy arrays (memory-mapped ones too), nested sequences, pandas or xarray objects."""

_CHUNK = 2**21  # numbers at a time: the float64 copy of a check stays at 16 MiB


def instance(value: Any, kinds: Any, name: str, remedy: str) -> None:
    """TypeError unless `value` is of one of these types."""
    if not isinstance(value, kinds):
        own = kinds if isinstance(kinds, tuple) else (kinds,)
        wanted = " or ".join(kind.__name__ for kind in own)
        raise TypeError(f"{name} must be {wanted}, got {type(value).__name__}; {remedy}")


def named(values: Any, name: str, of: str) -> None:
    """TypeError unless `values` is a mapping, which says by name what each of its values is."""
    if not isinstance(values, Mapping):
        raise TypeError(
            f"{name} must be a dictionary, name → {of}, got {type(values).__name__}; "
            f"pass one as {{'name': ...}}"
        )


def as_tensor(value: ArrayLike, name: str) -> Tensor:
    """`value` as a detached tensor, on the same memory where it can be: not to be written to.

    Nested sequences of floats become float64, whatever torch's default is.

    Raises TypeError for what are no numbers, ValueError for a masked array with masked entries.
    """
    check_unmasked(value, name)
    try:
        if isinstance(value, Tensor):
            if value.layout is not torch.strided:
                raise TypeError("it is sparse; pass value.to_dense(), in batches if it is large")
            return value.detach()
        if isinstance(value, torch.nn.Module):
            raise TypeError("it is a module; pass its weight, as module.weight")
        if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor):
            return torch.stack([torch.as_tensor(item) for item in value]).detach()
        array = value.to_numpy() if hasattr(value, "to_numpy") else value
        return torch.from_numpy(_native(_numbers(value, np.asarray(array))))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be an array of numbers, got {type(value).__name__}: {error}"
        ) from error


def check_unmasked(value: ArrayLike, name: str) -> None:
    """ValueError for masked entries, of an array or a list of arrays: NumPy forgets the mask."""
    if masked := _count_masked(value):
        raise ValueError(
            f"{name} must not be masked, got {masked} masked entries; drop such samples, or fill "
            "them on purpose with numpy.ma.filled"
        )


def _count_masked(value: ArrayLike) -> int:
    if isinstance(value, list | tuple) and value and not isinstance(value[0], int | float):
        return sum(map(_count_masked, value))
    return int(np.ma.count_masked(value)) if isinstance(value, np.ma.MaskedArray) else 0


def _numbers(value: ArrayLike, array: NDArray[Any]) -> NDArray[Any]:
    """Numbers of pandas' nullable columns, which to_numpy() gives as objects."""
    frame = array.dtype == object and hasattr(value, "columns")
    if frame and {getattr(kind, "kind", "O") for kind in value.dtypes} <= set("iuf"):
        array = value.to_numpy(dtype=float, na_value=math.nan)
    return array


def _native(array: NDArray[Any]) -> NDArray[Any]:
    """The array as torch reads it without a copy or a warning."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind in "USO":
        raise TypeError(
            "it holds text or objects; turn names of classes into numbers with "
            "numpy.unique(labels, return_inverse=True)[1], numbers by .astype(float)"
        )
    if kind == "u" and size > 1:
        if array.size and array.max() > 2**63 - 1:
            raise ValueError(f"{array.max()} does not fit into 64 bits with a sign")
        return array.astype(np.int64)
    if kind == "f" and size > 8:
        return array.astype(np.float64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    return array if array.flags.writeable else np.asarray(_Readable(array))


class _Readable:
    """The memory of a read-only array, for torch, which warns of those and which we only read."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array  # alive as long as a tensor reads it
        interface = dict(array.__array_interface__)
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def as_features(
    features: ArrayLike, *, name: str = "features", dim: int | None = None
) -> Float[Tensor, "N d"]:
    """Real, finite, non-empty (N, d) features; integers become float64.

    Raises ValueError for a wrong shape, no samples, complex numbers, NaN or infinity.
    """
    x = checked_features(features, name=name, dim=dim)
    return x if x.is_floating_point() and x.element_size() > 1 else x.double()


def checked_features(
    features: ArrayLike, *, name: str = "features", dim: int | None = None
) -> Tensor:
    """`as_features` of any dtype, integers left as they are: nothing is copied."""
    x = as_tensor(features, name)
    if x.ndim != 2:
        raise ValueError(
            f"{name} must have shape (N, d), got {tuple(x.shape)}; "
            "flatten or pool all axes after the first into one"
        )
    if 0 in x.shape:
        raise ValueError(f"{name} must not be empty, got shape {tuple(x.shape)}")
    if dim is not None and x.shape[1] != dim:
        raise ValueError(f"{name} must have dimension {dim}, got {x.shape[1]}")
    if x.is_complex():
        raise ValueError(f"{name} must be real, got {x.dtype}; split real and imaginary parts")
    if x.is_floating_point():
        _check_finite(x, name)
    return x


def _check_finite(x: Float[Tensor, "N d"], name: str) -> None:
    rows = max(1, _CHUNK // x.shape[1])
    # A sum is finite if every entry is (short of overflow), float8 aside: no N×d temporary.
    # Added up as plain numbers: tensors kept between the copies would keep these from being reused.
    if math.isfinite(sum(part.double().sum().item() for part in x.split(rows))):
        return
    for start in range(0, len(x), rows):
        bad = (~torch.isfinite(x[start : start + rows].double())).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            row += start
            raise ValueError(
                f"{name} must be finite, got {x[row, column].item()} at [{row}, {column}]; "
                "remove or repair such samples"
            )


def as_labels(
    labels: ArrayLike, num_samples: int, *, num_classes: int | None = None, name: str = "labels"
) -> Int[Tensor, "N"]:
    """Integer class labels (N,) in 0..K-1; a column (N, 1) and one-hot rows (N, K) are read too.

    Integral floats are refused, as they hide mistakes.

    Raises ValueError for a wrong shape or length, a non-integer dtype, or a label out of range;
    TypeError for text.
    """
    if labels is None:
        raise ValueError(f"{name} must be given: one integer class for each of {num_samples} rows")
    y = as_tensor(labels, name)
    if y.ndim == 2 and len(y) == num_samples > 0:
        y = y[:, 0] if y.shape[1] == 1 else _one_hot(y, name)
    if y.ndim != 1:
        raise ValueError(
            f"{name} must have shape (N,), got {tuple(y.shape)}; flatten it to one class a sample"
        )
    if len(y) != num_samples:
        raise ValueError(f"{name} must have one entry per sample: got {len(y)} for {num_samples}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        remedy = "convert them first"
        if y.is_floating_point() and y.isnan().any():
            count = int(y.isnan().sum())
            remedy = f"{count} are NaN, which is no class: leave these samples out, then convert"
        raise ValueError(f"{name} must be integers 0..K-1, got {y.dtype}; {remedy}")
    y = y.long()
    if len(y):
        low, high = (int(v) for v in y.aminmax())
        if low < 0:
            raise ValueError(
                f"{name} must be >= 0, got {low}; drop unlabelled samples, "
                f"keep = {name} >= 0, from features too"
            )
        if num_classes is not None and high >= num_classes:
            only = " (0 is not used: subtract 1 if they count from 1)" if low > 0 else ""
            raise ValueError(f"{name} must be < num_classes = {num_classes}, got {high}{only}")
    return y


def _one_hot(rows: Tensor, name: str) -> Int[Tensor, "N"]:
    """The classes of one-hot rows; ValueError for rows that are none."""
    on = rows != 0
    if not rows.is_complex() and bool(((rows == 1) | ~on).all()):
        several = (on.sum(1) != 1).nonzero().flatten().tolist()
        if not several:
            return on.long().argmax(1)
        raise ValueError(
            f"{name} must give every sample one class, got {int(on[several[0]].sum())} in row "
            f"{several[0]}; choose one class, or drop such samples"
        )
    raise ValueError(
        f"{name} must have shape (N,), got {tuple(rows.shape)}; scores: pass rows.argmax(1)"
    )


def check_populated(counts: Int[Tensor, "K"]) -> None:
    """ValueError when a class has no sample, with the likely cause."""
    empty = (counts < 1).nonzero().flatten().tolist()
    if not empty:
        return
    last = len(counts) - 1
    remedy = "relabel the classes present with numpy.unique(labels, return_inverse=True)"
    if empty == [0]:
        remedy = "subtract 1 from labels that count from 1"
    elif last in (99, 255, 999, 65535) and len(empty) > len(counts) // 2:
        remedy = f"drop the samples labelled {last}, if that stands for none, or {remedy}"
    raise ValueError(
        f"every class needs a sample, but classes {empty[:10]} of {len(counts)} have none; {remedy}"
    )


def as_matrix(
    value: ArrayLike, shape: tuple[int | None, ...], *, name: str
) -> Float[Tensor, "... m n"]:
    """A finite float64 matrix (or a batch of them) of the given shape; None leaves an axis free."""
    x = as_tensor(value, name)
    wanted = tuple("any" if s is None else s for s in shape)
    if x.ndim != len(shape) or any(s not in (None, n) for s, n in zip(shape, x.shape, strict=True)):
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(x.shape)}")
    if x.is_complex() or not torch.isfinite(x.double()).all():
        raise ValueError(f"{name} must be real and finite; repair the entries that are not")
    return x.double()


def nonnegative(value: float, name: str) -> float:
    """A finite float >= 0, or ValueError."""
    number = _number(value, name)
    if number < 0:
        raise ValueError(f"{name} must be >= 0, got {number}")
    return number


def positive(value: float, name: str) -> float:
    """A finite float > 0, or ValueError."""
    number = _number(value, name)
    if number <= 0:
        raise ValueError(f"{name} must be > 0, got {number}")
    return number


def at_least(value: int, minimum: int, name: str) -> int:
    """An integer >= minimum, or ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {value}")
    return int(value)


def at_most(value: int, maximum: int, name: str) -> int:
    """An integer <= maximum, or ValueError."""
    if value > maximum:
        raise ValueError(f"{name} must be <= {maximum}, got {value}")
    return value


def affordable(size: float, name: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """MemoryError before more bytes are allocated than are free on a device."""
    device = torch.device(device)
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    elif device.type == "cpu":
        free = psutil.virtual_memory().available
    else:
        return
    if size > free:
        raise MemoryError(
            f"{name} needs {size / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB are free on "
            f"{device}; {remedy}"
        )


def check_pairs(num_classes: int, work: str, tables: float, device: Any = "cpu") -> None:
    """MemoryError before K×K tables of float64, at least so many, are made without room."""
    size = 8 * tables * num_classes**2
    affordable(size, f"{work} of num_classes = {num_classes}", "leave out or merge classes", device)


def _number(value: float, name: str) -> float:
    check_unmasked(value, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number

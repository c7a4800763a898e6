"""Checks at the door: every message names the argument, the value and the remedy."""

import math
from typing import Any

import numpy as np
import psutil
import torch
from jaxtyping import Float, Int
from torch import Tensor

ArrayLike = Any
"""Whatever `torch.as_tensor` takes: tensors, NumPy arrays, nested sequences."""


def as_tensor(value: ArrayLike, name: str) -> Tensor:
    """`value` as a detached tensor; TypeError when torch cannot read it."""
    if isinstance(value, Tensor):
        return value.detach()  # torch.as_tensor would move it to the default device
    try:
        return torch.as_tensor(value).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} must be an array of numbers, got {type(value).__name__}: {error}"
        ) from error


def as_features(
    features: ArrayLike, *, name: str = "features", dim: int | None = None
) -> Float[Tensor, "N d"]:
    """Real, finite, non-empty (N, d) features; integers become float64.

    Raises ValueError for a wrong shape, no samples, complex numbers, NaN or infinity.
    """
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
    if not x.is_floating_point() or x.element_size() == 1:  # float8 has no arithmetic
        x = x.double()
    # A sum is finite if every entry is (short of overflow): one pass, no N×d temporary.
    if not math.isfinite(x.sum(dtype=torch.float64).item()):
        bad = (~torch.isfinite(x)).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise ValueError(
                f"{name} must be finite, got {x[row, column].item()} at [{row}, {column}]; "
                "remove or repair such samples"
            )
    return x


def as_labels(
    labels: ArrayLike, num_samples: int, *, num_classes: int | None = None, name: str = "labels"
) -> Int[Tensor, "N"]:
    """Integer class labels (N,) in 0..K-1; integral floats are refused, as they hide mistakes.

    Raises ValueError for a wrong shape or length, a non-integer dtype, or a label out of range.
    """
    if labels is None:
        raise ValueError(f"{name} must be given: one integer class for each of {num_samples} rows")
    y = as_tensor(labels, name)
    if y.ndim != 1:
        raise ValueError(
            f"{name} must have shape (N,), got {tuple(y.shape)}; one-hot rows: pass rows.argmax(1)"
        )
    if len(y) != num_samples:
        raise ValueError(f"{name} must have one entry per sample: got {len(y)} for {num_samples}")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ValueError(f"{name} must be integers 0..K-1, got {y.dtype}; convert them first")
    y = y.long()
    if len(y):
        low, high = (int(v) for v in y.aminmax())
        if low < 0:
            raise ValueError(f"{name} must be >= 0, got {low}; drop unlabelled samples")
        if num_classes is not None and high >= num_classes:
            raise ValueError(f"{name} must be < num_classes = {num_classes}, got {high}")
    return y


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


def _number(value: float, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, got {value!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}")
    return number

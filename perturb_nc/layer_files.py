"""Files of class statistics: the layers of a network, or pairs of them, in one safetensors file."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal, overload

import torch
from torch import Tensor

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.storage import read_tensors, write_tensors
from perturb_nc.validation import instance, named

_FORMAT_KEY, _FORMAT = "format", "perturb_nc.ClassStatistics/1"
_JOINT_FORMAT, _PAIRS = "perturb_nc.JointStatistics/1", "pairs"
_FIELDS = tuple(field.name for field in fields(ClassStatistics))
_SPAN = "features_dim"  # what SpanStatistics have beside


def save_layers(
    layers: Mapping[str, ClassStatistics] | Mapping[str, SpanStatistics],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
) -> None:
    """Write the statistics of several layers, in order, to one safetensors file, atomically.

    Args:
        dtype: of the numbers in the file. float32 halves it and keeps seven digits, those of the
            features themselves as a rule; `load_layers` gives float64 whatever it is.

    Raises:
        ValueError: no layers, a dtype that is neither float64 nor float32, or metadata that are
            not strings.
    """
    named(layers, "layers", "ClassStatistics")
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    for name, own in layers.items():
        kinds = (ClassStatistics, SpanStatistics)
        instance(own, kinds, f"layers[{name!r}]", "collect_statistics gives them")
    notes = _checked_notes(metadata)
    tensors = {
        f"{i}/{name}/{field}": _converted(getattr(statistics, field), dtype)
        for i, (name, statistics) in enumerate(layers.items())
        for field in _FIELDS
    }
    tensors |= {
        f"{i}/{name}/{_SPAN}": torch.tensor(statistics.features_dim, device="cpu")
        for i, (name, statistics) in enumerate(layers.items())
        if isinstance(statistics, SpanStatistics)
    }
    write_tensors(path, tensors, {**notes, _FORMAT_KEY: _FORMAT})


@overload
def load_layers(path: str | Path) -> dict[str, ClassStatistics]: ...


@overload
def load_layers(
    path: str | Path, *, span: Literal[True]
) -> dict[str, ClassStatistics | SpanStatistics]: ...


def load_layers(
    path: str | Path, *, span: bool = False
) -> dict[str, ClassStatistics] | dict[str, ClassStatistics | SpanStatistics]:
    """Read the layers of a file written by `save_layers`, in order.

    Args:
        span: take `SpanStatistics` too, which are for metrics alone; refused otherwise.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds something else.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get(_FORMAT_KEY) != _FORMAT:
        raise ValueError(
            f"{path} holds no class statistics; make them with `perturb-nc stats FEATURES -o FILE`"
        )
    if not tensors:
        raise ValueError(f"{path} holds no layer; write it again")
    try:
        names = {int(key.split("/")[0]): key.split("/", 1)[1].rsplit("/", 1)[0] for key in tensors}
        layers = {names[i]: _layer(tensors, f"{i}/{names[i]}") for i in sorted(names)}
    except (LookupError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); write it again") from error
    narrow = [name for name, layer in layers.items() if isinstance(layer, SpanStatistics)]
    if narrow and not span:
        raise ValueError(
            f"{path}: layer {narrow[0]!r} holds statistics in the span of the class means, which "
            "are for metrics alone; collect it with covariance='full' (and reduce='pool' where "
            "d×d does not fit)"
        )
    return layers


def _checked_notes(metadata: Mapping[str, str] | None) -> dict[str, str]:
    notes = dict(metadata or {})
    if not all(isinstance(v, str) for v in (*notes, *notes.values())) or _FORMAT_KEY in notes:
        raise ValueError(f"metadata must map strings to strings, none {_FORMAT_KEY!r}, got {notes}")
    return notes


def _layer(tensors: Mapping[str, Tensor], key: str) -> ClassStatistics | SpanStatistics:
    values = {f: _converted(tensors[f"{key}/{f}"], torch.float64) for f in _FIELDS}
    if f"{key}/{_SPAN}" in tensors:
        return SpanStatistics(**values, features_dim=int(tensors[f"{key}/{_SPAN}"]))
    return ClassStatistics(**values)


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()


def save_joint(
    joint: Mapping[tuple[str, str], JointStatistics],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write joint statistics of pairs of layers to one safetensors file, atomically.

    Raises:
        ValueError: no pairs, or metadata that are not strings.
    """
    if not joint:
        raise ValueError("joint must hold at least one pair of layers, got none")
    notes = {**_checked_notes(metadata), _PAIRS: json.dumps(list(joint))}
    tensors = {}
    for i, pair in enumerate(joint.values()):
        tensors[f"{i}/cross"] = pair.cross
        for side in ("first", "last"):
            statistics = getattr(pair, side)
            # Copies: pairs share layers, and the format has no shared memory.
            tensors |= {f"{i}/{side}/{f}": getattr(statistics, f).clone() for f in _FIELDS}
    write_tensors(path, tensors, {**notes, _FORMAT_KEY: _JOINT_FORMAT})


def load_joint(path: str | Path) -> dict[tuple[str, str], JointStatistics]:
    """Read the pairs of layers of a file written by `save_joint`, in order.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds something else.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get(_FORMAT_KEY) != _JOINT_FORMAT:
        raise ValueError(f"{path} holds no joint statistics; make them with save_joint")
    try:
        return {
            (str(first), str(last)): JointStatistics(
                ClassStatistics(*(tensors[f"{i}/first/{f}"] for f in _FIELDS)),
                ClassStatistics(*(tensors[f"{i}/last/{f}"] for f in _FIELDS)),
                tensors[f"{i}/cross"],
            )
            for i, (first, last) in enumerate(json.loads(metadata[_PAIRS]))
        }
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); write it again") from error


def load_metadata(path: str | Path) -> dict[str, str]:
    """The metadata given to `save_layers` or `save_joint`."""
    metadata = read_tensors(path)[1]
    return {key: value for key, value in metadata.items() if key not in (_FORMAT_KEY, _PAIRS)}


def statistics_sha256(*layers: ClassStatistics) -> str:
    """A digest of the numbers, shapes and types of class statistics: the same only for the same."""
    digest = hashlib.sha256()
    for statistics in layers:
        for name in _FIELDS:
            array = getattr(statistics, name).cpu().contiguous().numpy()
            digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
            digest.update(array.tobytes())
    return digest.hexdigest()

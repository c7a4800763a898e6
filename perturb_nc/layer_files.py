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
from perturb_nc.layer_samples import LayerSamples
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.storage import local, read_tensors, write_tensors
from perturb_nc.validation import instance, named

_FORMAT_KEY, _FORMAT = "format", "perturb_nc.ClassStatistics/1"
_JOINT_FORMAT, _PAIRS = "perturb_nc.JointStatistics/1", "pairs"
_FIELDS = tuple(field.name for field in fields(ClassStatistics))
_SPAN = "features_dim"  # what SpanStatistics have beside
_SAMPLES, _LABELS = "samples", "sample_labels"  # beside the statistics, where samples are kept
NO_SAMPLES = (
    "holds no samples, which the loss cross-entropy needs; keep some with `perturb-nc stats "
    "FEATURES --samples 2000 -o FILE` or save_layers(..., samples=...)"
)


def save_layers(
    layers: Mapping[str, ClassStatistics] | Mapping[str, SpanStatistics],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    samples: Mapping[str, LayerSamples] | None = None,
) -> None:
    """Write the statistics of several layers, in order, to one safetensors file, atomically.

    Args:
        dtype: of the numbers in the file. float32 halves it and keeps seven digits, those of the
            features themselves as a rule; `load_layers` gives float64 whatever it is.
        samples: name → samples of the layer (a subsample as a rule), for `load_samples`; they are
            kept as float32, 4 n (d + 1) bytes a layer.

    Raises:
        ValueError: no layers, a dtype that is neither float64 nor float32, metadata that are not
            strings, or samples of other layers.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> pnc.save_layers({"blocks.0": statistics}, "layers.safetensors", {"network": "a sketch"})
        >>> pnc.load_metadata("layers.safetensors")
        {'network': 'a sketch'}

    See Also:
        load_layers, load_samples, load_metadata: what reads it.
    """
    named(layers, "layers", "ClassStatistics")
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    if dtype not in (torch.float64, torch.float32):
        raise ValueError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    for name, statistics in layers.items():
        kinds = (ClassStatistics, SpanStatistics)
        instance(statistics, kinds, f"layers[{name!r}]", "collect_statistics gives them")
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
    for i, name in enumerate(layers):
        if samples is not None:
            own = _fitting(layers, samples, name)
            tensors[f"{i}/{name}/{_SAMPLES}"] = own.features.float()
            tensors[f"{i}/{name}/{_LABELS}"] = own.labels.int()
    write_tensors(path, tensors, {**notes, _FORMAT_KEY: _FORMAT})


def _fitting(
    layers: Mapping[str, ClassStatistics] | Mapping[str, SpanStatistics],
    samples: Mapping[str, LayerSamples],
    name: str,
) -> LayerSamples:
    """The samples of a layer; ValueError where there are none or they are of something else."""
    if name not in samples or len(samples) > len(layers):
        raise ValueError(f"samples must be of the layers {[*layers]}, got {[*samples]}")
    sizes = [(s.num_classes, s.dim) for s in (layers[name], samples[name])]
    if sizes[0] != sizes[1]:
        raise ValueError(f"samples of {name!r} must have (K, d) = {sizes[0]}, got {sizes[1]}")
    return samples[name]


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

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> pnc.save_layers({"blocks.0": statistics}, "layers.safetensors")
        >>> layers = pnc.load_layers("layers.safetensors")
        >>> torch.equal(layers["blocks.0"].means, statistics.means)
        True

    See Also:
        save_layers: what writes it. collapse_metrics, minimize, compare_layers: what reads it.
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


def holds_statistics(path: str | Path) -> bool:
    """Whether a file is one of `save_layers`, by what it says of itself."""
    if local(path).suffix.lower() != ".safetensors":
        return False
    return read_tensors(path)[1].get(_FORMAT_KEY) == _FORMAT


def load_samples(path: str | Path) -> dict[str, LayerSamples]:
    """Read the samples that `save_layers` kept beside the class statistics, layer by layer.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that holds no samples.
    """
    layers = load_layers(path, span=True)
    tensors, _ = read_tensors(path)
    keys = {name: f"{i}/{name}" for i, name in enumerate(layers)}
    if not all(f"{key}/{_SAMPLES}" in tensors for key in keys.values()):
        raise ValueError(f"{path} {NO_SAMPLES}")
    try:
        return {
            name: LayerSamples(tensors[f"{key}/{_SAMPLES}"], tensors[f"{key}/{_LABELS}"].long())
            for name, key in keys.items()
        }
    except (LookupError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); write it again") from error


def _checked_notes(metadata: Mapping[str, str] | None) -> dict[str, str]:
    notes = dict(metadata or {})
    if not all(isinstance(v, str) for v in (*notes, *notes.values())) or _FORMAT_KEY in notes:
        raise ValueError(f"metadata must map strings to strings, none {_FORMAT_KEY!r}, got {notes}")
    return notes


def _layer(tensors: Mapping[str, Tensor], key: str) -> ClassStatistics | SpanStatistics:
    found = {f: tensors[f"{key}/{f}"] for f in _FIELDS}
    values = {f: t.double() if t.is_floating_point() else t for f, t in found.items()}
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
    return _sha256(*((name, getattr(layer, name)) for layer in layers for name in _FIELDS))


def layer_sha256(layer: ClassStatistics | LayerSamples) -> str:
    """The same of one layer, of its samples where it has them."""
    if isinstance(layer, ClassStatistics):
        return statistics_sha256(layer)
    return _sha256(("features", layer.features), ("labels", layer.labels))


def _sha256(*arrays: tuple[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in arrays:
        array = tensor.cpu().contiguous().numpy()
        digest.update(f"{name}{array.shape}{array.dtype.str}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()

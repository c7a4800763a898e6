"""The command `perturb-nc stats`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb_nc.cli.arguments import Json, pick, refuse_overwriting
from perturb_nc.cli.feature_files import Keys, layer_files, samples_of

if TYPE_CHECKING:
    from torch import Tensor

    from perturb_nc.layer_samples import LayerSamples
    from perturb_nc.statistics import ClassStatistics

_FEATURES = (
    ".npz, .npy, .pt or .safetensors, (N, d): a layer each; NAME-1-of-4 are shards of one; or a "
    "folder of such files, and of a folder for each layer"
)

_MOST_CLASSES = 10**7


def stats(
    features: Annotated[list[Path], typer.Argument(help=_FEATURES)],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write")],
    labels: Annotated[
        Path | None, typer.Option(help="file with the labels, when they are not in FEATURES")
    ] = None,
    features_key: Annotated[
        str, typer.Option(help="name of the features array; where none has it, all are layers")
    ] = "features",
    labels_key: Annotated[str, typer.Option(help="name of the labels array")] = "labels",
    num_classes: Annotated[int | None, typer.Option(help="K, default: largest label + 1")] = None,
    samples: Annotated[
        int | None,
        typer.Option(help="keep so many samples, class by class, for --loss cross-entropy later"),
    ] = None,
    every: Annotated[
        bool, typer.Option("--layers", help="every array but the labels is a layer of that name")
    ] = False,
    as_json: Json = False,
) -> None:
    """Reduce your own features and labels to class statistics: one file of all layers."""
    from perturb_nc.layer_files import save_layers
    from perturb_nc.show import terminal
    from perturb_nc.storage import json_text, read_arrays

    refuse_overwriting(output, *features, labels)
    given = None if labels is None else pick(read_arrays(labels), labels_key, labels)
    found = layer_files(features, exclude=[output, *([labels] if labels else [])])
    keys, layers = Keys(features_key, labels_key, every), {}
    kept: dict[str, LayerSamples] = {}
    for name, files in found.items():
        outer = name if len(found) > 1 else ""
        for inner, statistics in _reduced(files, keys, given, num_classes).items():
            layers[_joined(outer, inner)] = statistics
        if samples is not None:
            some = _some(files, keys, given, samples)
            kept |= {_joined(outer, inner): own for inner, own in some.items()}
    source = {"source": ", ".join(path.name for path in features)}
    save_layers(layers, output, source, samples=kept or None)
    if as_json:
        sizes = {
            name: {"classes": s.num_classes, "dim": s.dim, "samples": s.num_samples}
            for name, s in layers.items()
        }
        print(json_text({"file": str(output), "layers": sizes}))
        return
    said = [f"{name}: {_size(s)}" for name, s in layers.items()]
    also = "" if samples is None else f", {samples} samples kept"
    if len(layers) == 1:
        terminal.show(f"wrote {output}: {_size(next(iter(layers.values())))}{also}")
    else:
        terminal.show(f"wrote {output}: {len(layers)} layers{also}", *said)


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _size(statistics: "ClassStatistics") -> str:
    k, d, n = statistics.num_classes, statistics.dim, statistics.num_samples
    return f"K = {k} classes, d = {d}, N = {n}"


def _reduced(
    files: list[Path], keys: Keys, labels: "Tensor | None", num_classes: int | None
) -> "dict[str, ClassStatistics]":
    """The statistics of the layers in some files, one file in memory at a time."""
    from perturb_nc.accumulation import chunks
    from perturb_nc.statistics import ClassStatistics, StatisticsBuilder
    from perturb_nc.validation import as_features, as_labels, at_most

    read = samples_of(files, keys, labels)
    if len(files) == 1:
        (arrays,) = read
        return {
            name: ClassStatistics.from_features(x, y, num_classes)
            for name, (x, y) in arrays.items()
        }
    if num_classes is not None:
        at_most(num_classes, _MOST_CLASSES, "num_classes")
    builders: dict[str, StatisticsBuilder] = {}
    for number, arrays in enumerate(read):
        if number and list(arrays) != list(builders):
            raise ValueError(
                f"{files[number]} holds {list(arrays)}, and {files[0]} {list(builders)}; shards "
                "must hold the same layers"
            )
        for name, (features, own) in arrays.items():
            x = as_features(features)
            y = as_labels(own, len(x))
            builder = builders.setdefault(name, StatisticsBuilder(num_classes))
            for rows in chunks(x):
                builder.update(x[rows], y[rows])
    return {name: builder.result() for name, builder in builders.items()}


def _some(
    files: list[Path], keys: Keys, labels: "Tensor | None", count: int
) -> "dict[str, LayerSamples]":
    """So many samples of the layers in a file, class by class."""
    from perturb_nc.layer_samples import LayerSamples, stratified_rows

    if len(files) > 1:
        raise ValueError(f"samples are kept of layers of one file each, got {len(files)} shards")
    (arrays,) = samples_of(files, keys, labels)
    return {
        name: LayerSamples(x, y).take(stratified_rows(y, count)) for name, (x, y) in arrays.items()
    }

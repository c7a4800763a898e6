"""What `docs/experiments.md` says of the public networks in tables, from their records."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

COLUMNS = {  # the blocks shown; all where nothing is said
    "resnet56_cifar10": ("stem", *(f"blocks.{i}" for i in (8, 9, 17, *range(18, 27)))),
    "vgg16_cifar10": tuple(f"blocks.{i}" for i in (0, 3, *range(6, 14))),
}
FALLING = ("nc1", "nc1_trace", "nc2_etf", "cdnv")
_NAMES = {"nc1": "NC1", "nc1_trace": "ÑC1", "nc2_etf": "NC2", "cdnv": "CDNV"}


def tables(folder: Path, names: tuple[str, ...]) -> str:
    """Of every network what was measured block by block."""
    parts = []
    for name in names:
        path = folder / f"{name}.json"
        record = json.loads(path.read_text(encoding="utf8"))
        parts += [f"## {name}\n", heading(record), *table(record, COLUMNS.get(name)), ""]
    return "\n".join(parts)


def heading(record: Mapping[str, Any]) -> str:
    """Images and accuracies, and at how many steps each metric falls."""
    said = []
    for split, accuracy in record["accuracy"].items():
        if accuracy is not None:
            said.append(f"{split}: {record['images'][split]:,} images, accuracy {accuracy:.5g}")
    layers = [layer["trained"] for layer in record["layers"].values()]
    for metric in FALLING:
        falls = sum(b[metric] < a[metric] for a, b in pairwise(layers))
        ends = f"{_short(layers[0][metric])} → {_short(layers[-1][metric])}"
        said.append(f"{_NAMES[metric]} {ends}, falls at {falls} of {len(layers) - 1} steps")
    return "; ".join(said) + "\n"


def table(record: Mapping[str, Any], columns: tuple[str, ...] | None = None) -> Iterator[str]:
    """Lines of Markdown: a column a block."""
    layers = {name: record["layers"][name] for name in columns or record["layers"]}
    yield f"| | {' | '.join(layers)} |"
    yield "|" + "---|" * (len(layers) + 1)
    for title, cell in _ROWS.items():
        yield f"| {title} | {' | '.join(cell(layer) for layer in layers.values())} |"


def _half(layer: Mapping[str, Any]) -> str:
    """Half of the interval of NC1 relative to its middle."""
    low, high = layer["intervals"]["nc1"]
    return "–" if low is None else f"{_short(50 * math.log(high / low), 2)} %"


def _short(value: float | None, digits: int = 3) -> str:
    if value is None:
        return "–"
    text = f"{value:#.{digits}g}".removesuffix(".")
    return text.removeprefix("0") if value < 1 else text


def _share(value: float) -> str:
    return (f"{value:.4f}" if 0.9995 <= value < 1 else f"{value:.3f}").removeprefix("0")


_ROWS = {
    "NC1": lambda layer: _short(layer["trained"]["nc1"]),
    "debiased": lambda layer: _short(layer["debiased"]["nc1_debiased"]),
    "95 % interval, half of it": _half,
    "ÑC1": lambda layer: _short(layer["trained"]["nc1_trace"]),
    "ÑC1 of test images about the train means": lambda layer: _short(layer["test_collapse"]),
    "NC2": lambda layer: _short(layer["trained"]["nc2_etf"]),
    "CDNV": lambda layer: _short(layer["trained"]["cdnv"]),
    "nearest-mean accuracy, trained": lambda layer: _share(layer["nearest_mean"]["trained"]),
    "the same, test": lambda layer: _share(layer["nearest_mean"]["test"]),
}

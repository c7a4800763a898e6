"""Pooled features of every block of the public networks, in pieces: each is read or made.

One forward pass of all images is most of what `public_networks` costs, so it is made once, in
pieces of a minute, and everything else is computed from the features that are kept (not committed).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from perturb_nc import collect_features
from perturb_nc.networks import Dataset
from perturb_nc.networks.public import public_inputs, public_network
from perturb_nc.storage import write_tensors

LABELS, OUTPUTS = "labels", "outputs"


@dataclass(frozen=True)
class Pieces:
    """The files of one network's features on one split."""

    files: tuple[Path, ...]
    layers: tuple[str, ...]

    def read(self, name: str) -> Tensor:
        """Features (N, d) of a layer, float32, or `LABELS`, or the network's `OUTPUTS`."""
        parts = []
        for path in self.files:
            with safetensors.safe_open(path, framework="pt") as file:
                parts.append(file.get_tensor(name))
        return torch.cat(parts)


def features(
    name: str, split: str, folder: Path, *, images: int | None, piece: int, batch_size: int
) -> Pieces:
    """Features of the first `images` images of a split; those that are missing are made."""
    model = public_network(name).to(memory_format=torch.channels_last)
    data, layers = public_inputs(name, split), block_names(model)
    files = []
    for start in range(0, images or len(data), piece):
        rows = slice(start, min(start + piece, images or len(data)))
        path = folder / f"{name}-{split}-{rows.start}-{rows.stop}.safetensors"
        if not path.is_file():
            part = Dataset(data.name, data.inputs[rows], data.labels[rows], data.num_classes)
            write_tensors(path, measured(model, part, layers, batch_size), {})
            print(f"{path.stem}: done", flush=True)
        files.append(path)
    return Pieces(tuple(files), tuple(layers))


def measured(
    model: nn.Module, data: Dataset, layers: Sequence[str], batch_size: int
) -> dict[str, Tensor]:
    """Pooled features of the layers, the labels, and the outputs of the network."""
    outputs: list[Tensor] = []
    handle = model.register_forward_hook(lambda _, __, y: outputs.append(y.clone()))
    try:
        found, labels = collect_features(model, batches_of(data, batch_size), layers=layers)
    finally:
        handle.remove()
    return {**found, LABELS: labels, OUTPUTS: torch.cat(outputs)}


def batches_of(data: Dataset, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels in order."""
    for inputs, labels in zip(data.inputs.split(size), data.labels.split(size), strict=True):
        yield inputs.contiguous(memory_format=torch.channels_last), labels


def block_names(model: nn.Module) -> list[str]:
    """The stem where there is one, and the blocks."""
    stem = ["stem"] if hasattr(model, "stem") else []
    blocks = model.get_submodule("blocks")
    return [*stem, *(f"blocks.{i}" for i, _ in enumerate(blocks.children()))]

"""Labelled inputs in memory, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from perturb_nc.validation import as_labels, at_least


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled inputs, standardised with the statistics of the training split.

    Attributes:
        name: of `networks.DATASETS`, or one of the caller's.
        inputs: float32, shape (N, ...).
        labels: int64 in 0..K-1, shape (N,).
        num_classes: K.

    Raises:
        ValueError: no samples, lengths that disagree, or a label outside 0..K-1.
    """

    name: str
    inputs: Float32[Tensor, "N ..."]
    labels: Int64[Tensor, "N"]
    num_classes: int

    def __post_init__(self) -> None:
        at_least(self.num_classes, 2, "num_classes")
        at_least(len(self.inputs), 1, "the number of samples in inputs")
        as_labels(self.labels, len(self.inputs), num_classes=self.num_classes)

    def __len__(self) -> int:
        """N."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on another device."""
        return replace(self, inputs=self.inputs.to(device), labels=self.labels.to(device))


def batches(
    dataset: Dataset, batch_size: int, *, generator: torch.Generator | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield every sample once as (inputs, labels) batches; the last batch may be smaller.

    Shuffled when a (CPU) generator is given, in the order of the data set otherwise.
    """
    at_least(batch_size, 1, "batch_size")
    if generator is None:
        yield from zip(
            dataset.inputs.split(batch_size), dataset.labels.split(batch_size), strict=True
        )
        return
    order = torch.randperm(len(dataset), generator=generator, device="cpu").to(
        dataset.labels.device
    )
    for rows in order.split(batch_size):
        yield dataset.inputs[rows], dataset.labels[rows]

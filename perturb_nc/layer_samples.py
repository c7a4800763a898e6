"""Features of a layer sample by sample: what losses other than the squared one need of it."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.validation import (
    ArrayLike,
    as_features,
    as_labels,
    at_least,
    at_most,
    check_populated,
)


@dataclass(frozen=True, eq=False, repr=False)
class LayerSamples(Summarised):
    """Features of one layer with their labels, all samples or a subsample of them.

    Args:
        features: (N, d), kept in their type.
        labels: (N,) in 0..K-1, every class present.

    Raises:
        ValueError: bad features or labels.
    """

    features: ArrayLike
    labels: ArrayLike

    def __post_init__(self) -> None:
        x = as_features(self.features)
        y = as_labels(self.labels, len(x)).to(x.device)
        check_populated(torch.bincount(y))
        object.__setattr__(self, "features", x)
        object.__setattr__(self, "labels", y)

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of these samples."""
        return ClassStatistics.from_features(self.features, self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.statistics.num_classes

    @property
    def dim(self) -> int:
        """d."""
        return int(self.features.shape[1])

    def _summary(self) -> dict[str, object]:
        return {"num_classes": self.num_classes, "dim": self.dim, "num_samples": len(self.labels)}

    def take(self, rows: Int64[Tensor, "n"]) -> "LayerSamples":
        """Some of the samples, such as those of `stratified`."""
        own = rows.to(self.labels.device)
        return LayerSamples(self.features[own].clone(), self.labels[own])


def stratified(labels: ArrayLike, samples: int, *, seed: int = 0) -> Int64[Tensor, "n"]:
    """Rows of a random subsample that has the class proportions of all, in increasing order.

    Every class gets its share of `samples`, rounded so that they add up, and two samples (or all it
    has) at least. The same labels, number and seed give the same rows, so that the layers of a
    network are subsampled alike.

    Args:
        labels: (N,) in 0..K-1, every class present.
        samples: how many to keep, from 2K to N.

    Raises:
        ValueError: bad labels, or a number out of range.
    """
    y = as_labels(labels, len(labels)).cpu()
    counts = torch.bincount(y)
    check_populated(counts)
    at_most(at_least(samples, 2 * len(counts), "samples"), len(y), "samples")
    chosen = []
    generator = torch.Generator().manual_seed(at_least(seed, 0, "seed"))
    for k, quota in enumerate(_quotas(counts, samples).tolist()):
        own = (y == k).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=generator, device=own.device)[:quota]])
    return torch.cat(chosen).sort().values


def _quotas(counts: Int64[Tensor, "K"], total: int) -> Int64[Tensor, "K"]:
    """Largest remainders; then those with fewer than two take from the largest."""
    exact = counts.double() * total / counts.sum()
    quotas = exact.floor().long()
    order = (exact - quotas).argsort(descending=True, stable=True)
    quotas[order[: total - int(quotas.sum())]] += 1
    least = counts.clamp(max=2)
    for k in (quotas < least).nonzero()[:, 0].tolist():
        while quotas[k] < least[k]:
            quotas[(quotas - least).argmax()] -= 1
            quotas[k] += 1
    return quotas

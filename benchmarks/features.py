"""Synthetic features for the benchmarks."""

from collections.abc import Iterator

import torch
from torch import Tensor


def feature_chunks(
    samples: int, dim: int, num_classes: int, *, spread: float, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Balanced classes in chunks of 10,000 (features, labels), float32.

    Orthonormal class means times `spread` plus noise of standard deviation 0.3; noise of standard
    deviation 1 alone where `spread` is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    frame = torch.linalg.qr(torch.randn(dim, num_classes, generator=generator)).Q.mT * spread
    for start in range(0, samples, 10_000):
        labels = torch.arange(start, min(start + 10_000, samples)) % num_classes
        noise = torch.randn(len(labels), dim, generator=generator)
        yield frame[labels] + (0.3 if spread else 1.0) * noise, labels


def make_features(
    samples: int, dim: int, num_classes: int, *, spread: float, seed: int
) -> tuple[Tensor, Tensor]:
    """`feature_chunks` in one piece, float64."""
    parts = list(feature_chunks(samples, dim, num_classes, spread=spread, seed=seed))
    return torch.cat([x for x, _ in parts]).double(), torch.cat([y for _, y in parts])

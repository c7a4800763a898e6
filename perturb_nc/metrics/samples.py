"""Collapse metrics that need the samples, not only their class statistics."""

from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.validation import ArrayLike, as_features, as_labels

_ROWS = 65536  # samples at a time: bounds the N×K table of distances


def nearest_class_mean(statistics: ClassStatistics, features: ArrayLike) -> Int64[Tensor, "N"]:
    """The class whose mean is nearest (Euclidean) to each feature (N, d)."""
    x = as_features(features, dim=statistics.dim)
    # Centred first: |h - μ|² by the expanded square would cancel under a common offset.
    origin = statistics.global_mean.to(x.device)
    means = statistics.means.to(x.device) - origin
    squares = means.square().sum(1)
    return torch.cat(
        [(squares - 2 * (rows.double() - origin) @ means.mT).argmin(1) for rows in x.split(_ROWS)]
    )


def nc4_accuracy(statistics: ClassStatistics, features: ArrayLike, labels: ArrayLike) -> float:
    """Share of samples whose nearest class mean is that of their label (Rangamani et al. 2023)."""
    nearest = nearest_class_mean(statistics, features)
    y = as_labels(labels, len(nearest), num_classes=statistics.num_classes)
    return (nearest == y.to(nearest.device)).double().mean().item()


def nc4_vs_network(
    statistics: ClassStatistics, features: ArrayLike, predictions: ArrayLike
) -> float:
    """Share of samples that the nearest class mean does NOT classify as the network does.

    predictions: the network's predicted classes (N,). 0 at collapse (Papyan et al. 2020;
    Parker et al. 2023).
    """
    nearest = nearest_class_mean(statistics, features)
    k = statistics.num_classes
    y = as_labels(predictions, len(nearest), num_classes=k, name="predictions")
    return (nearest != y.to(nearest.device)).double().mean().item()


def nc5(statistics: ClassStatistics, outside: ArrayLike) -> float:
    """Mean over classes of |cos(μ_k, μ_o)|, μ_o the mean of features (M, d) of no class (NC5).

    Between 0, out-of-distribution samples orthogonal to all classes on average, and 1. Means are
    uncentred. NaN when one of them is 0.

    Source: Ammar et al. 2024, "NECO: neural collapse based out-of-distribution detection".
    """
    x = as_features(outside, name="outside", dim=statistics.dim)
    mean, means = x.double().mean(0), statistics.means.to(x.device)
    return ((means @ mean).abs() / (means.norm(dim=1) * mean.norm())).mean().item()


def stable_rank(features: ArrayLike, labels: ArrayLike) -> Float64[Tensor, "K"]:
    """‖H_c‖_F² / ‖H_c‖₂² of the features of every class, uncentred (Rangamani et al. 2023).

    Between 1 (all features of the class on one line) and min(n_c, d). NaN for a class without
    samples or with zero features only.
    """
    x = as_features(features)
    y = as_labels(labels, len(x)).to(x.device)
    ranks = x.new_full((int(y.max()) + 1,), torch.nan, dtype=torch.float64)
    for k in y.unique().tolist():
        squares = torch.linalg.svdvals(x[y == k].double()).square()
        ranks[k] = squares.sum() / squares[0]
    return ranks


def effective_depth(accuracies: Mapping[str, float], epsilon: float = 0.0) -> str | None:
    """Name of the first layer whose nearest-class-mean error is <= epsilon (Galanti et al. 2022).

    accuracies: layer name → `nc4_accuracy` on the training samples. None when there is no such
    layer.
    """
    return next((name for name, value in accuracies.items() if 1 - value <= epsilon), None)

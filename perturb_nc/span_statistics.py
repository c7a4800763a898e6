"""Class statistics in the span of the class means: all metrics of wide features, without d×d.

With Q (d×r) an orthonormal basis of the span of the class means, r = min(K, d), the metrics of
features see Σ_W only through QᵀΣ_WQ and tr Σ_W. So features of any dimension have the same metrics
as statistics of dimension K + 1: the coordinates in Q, and one more that carries what is left of
the trace, tr Σ_W - tr QᵀΣ_WQ, and where no mean reaches.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.moments import Moments
from perturb_nc.statistics import check_and_copy
from perturb_nc.summary import Summarised
from perturb_nc.validation import (
    ArrayLike,
    as_features,
    as_labels,
    at_least,
    check_populated,
    checked_features,
)

_CHUNK_BYTES = 16 * 2**20  # float64 working copy of one chunk of samples


@dataclass(frozen=True, eq=False, repr=False)
class SpanStatistics(Moments, Summarised):
    """Class statistics in the span of the class means: for metrics of features, and no more.

    Σ_W is kept inside the span and in trace only. So what needs all of it (the optimum, the flow,
    fits, sweeps) refuses this type, as metrics of a weight do: (K×d), it has no columns here.

    Attributes:
        counts: n_k, int64, shape (K,).
        means, within, class_variance: as in `ClassStatistics`, in min(d, K + 1) coordinates.
        features_dim: d of the features.

    Raises:
        ValueError: as `ClassStatistics`.
    """

    counts: Int64[Tensor, "K"]
    means: Float64[Tensor, "K r"]
    within: Float64[Tensor, "r r"]
    class_variance: Float64[Tensor, "K"]
    features_dim: int

    def __post_init__(self) -> None:
        check_and_copy(self)

    @classmethod
    def from_features(
        cls, features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
    ) -> "SpanStatistics":
        """Those of features (N, d), in O(Kd) memory; arguments as of `ClassStatistics`."""
        x = checked_features(features)
        first = MeansBuilder(num_classes)
        rows = max(1, _CHUNK_BYTES // (8 * x.shape[1]))
        y = as_labels(labels, len(x), num_classes=num_classes)
        for part, classes in zip(x.split(rows), y.split(rows), strict=True):
            first.update(part, classes)
        second = SpanBuilder(*first.result())
        for part, classes in zip(x.split(rows), y.split(rows), strict=True):
            second.update(part, classes)
        return second.result()

    def _summary(self) -> dict[str, object]:
        sizes = {"num_samples": int(self.counts.sum()), "features_dim": self.features_dim}
        return sizes | super()._summary()


class MeansBuilder:
    """Accumulates class sizes and means batch by batch, in float64: the first pass, O(Kd).

    Args:
        num_classes: K, or None to take the largest label seen.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self._fixed = num_classes
        size = at_least(num_classes, 2, "num_classes") if num_classes is not None else 0
        self._counts = torch.zeros(size, dtype=torch.int64)
        self._sums = torch.zeros(size, 0, dtype=torch.float64)  # d comes with the first batch

    def update(self, features: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of features (N, d) and labels (N,)."""
        x = as_features(features, dim=self._sums.shape[1] or None)
        y = as_labels(labels, len(x), num_classes=self._fixed).to(x.device)
        if self._sums.shape[1] == 0:
            self._counts = x.new_zeros(len(self._counts), dtype=torch.int64)
            self._sums = x.new_zeros(len(self._counts), x.shape[1], dtype=torch.float64)
        grow = int(y.max()) + 1 - len(self._counts)
        if grow > 0:
            self._counts = torch.nn.functional.pad(self._counts, (0, grow))
            self._sums = torch.nn.functional.pad(self._sums, (0, 0, 0, grow))
        self._counts += torch.bincount(y, minlength=len(self._counts))
        self._sums.index_add_(0, y, x.double())

    def result(self) -> tuple[Int64[Tensor, "K"], Float64[Tensor, "K d"]]:
        """Counts and means; the mean of a class without samples is NaN."""
        return self._counts, self._sums / self._counts[:, None]


class SpanBuilder:
    """Accumulates statistics in the span of known class means: the second pass, O(Kd).

    Args:
        counts, means: of the first pass over the same samples (in any order).

    The deviations of a class from its mean add up to 0 if the samples are the same; those of an
    augmenting loader do not, and their Σ_W would be too large by (n+1)/(n-1) and more.
    """

    def __init__(self, counts: Int64[Tensor, "K"], means: Float64[Tensor, "K d"]) -> None:
        check_populated(counts)
        self._counts, self._means = counts, means
        self._basis = torch.linalg.qr(means.mT).Q
        r = self._basis.shape[1]
        self._seen = torch.zeros_like(counts)
        self._drift = torch.zeros_like(means)  # Σ_i (h_ki - μ_k): 0 for the same samples
        self._gram = means.new_zeros(r, r)
        self._class_scatter = means.new_zeros(len(counts))

    def update(self, features: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of features (N, d) and labels (N,)."""
        k, d = self._means.shape
        x = as_features(features, dim=d)
        y = as_labels(labels, len(x), num_classes=k).to(x.device)
        rows = max(1, _CHUNK_BYTES // (8 * d))
        for part, classes in zip(x.split(rows), y.split(rows), strict=True):
            deviations = part.double() - self._means[classes]
            projected = deviations @ self._basis
            self._gram.addmm_(projected.mT, projected)
            self._class_scatter.index_add_(0, classes, deviations.square().sum(1))
            self._drift.index_add_(0, classes, deviations)
        self._seen += torch.bincount(y, minlength=k)

    def result(self) -> SpanStatistics:
        """The statistics; ValueError when the samples were not those of the means."""
        if not torch.equal(self._seen, self._counts):
            raise ValueError(
                f"the second pass had {self._seen.tolist()} samples per class, the first "
                f"{self._counts.tolist()}; give the same samples twice"
            )
        self._check_means()
        total = self._counts.sum()
        r, d = self._basis.shape[1], self._means.shape[1]
        means, within = self._means @ self._basis, self._gram / total
        if r < d:
            left = self._class_scatter.sum() / total - within.trace()
            means = torch.nn.functional.pad(means, (0, 1))
            within = torch.nn.functional.pad(within, (0, 1, 0, 1))
            within[-1, -1] = left
        within = (within + within.mT) / 2
        variance = self._class_scatter / self._counts
        return SpanStatistics(self._counts, means, within, variance, d)

    def _check_means(self) -> None:
        drift = (self._drift / self._counts[:, None]).norm(dim=1)
        spread = (self._class_scatter / self._counts).sqrt()
        # What a model in float32 may give differently the second time is allowed.
        allowed = 1e-4 * spread + 1e-6 * self._means.norm(dim=1)
        moved = (drift > allowed).nonzero().flatten().tolist()
        if moved:
            k = moved[0]
            raise ValueError(
                f"the second pass had other samples than the first: the mean of class {k} moved by "
                f"{drift[k]:.3g}, where features spread by {spread[k]:.3g}; give the same samples "
                "twice, without augmentation or dropout"
            )

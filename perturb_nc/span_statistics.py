"""Class statistics in the span of the class means: all metrics of wide features, without d×d.

With Q (d×r) an orthonormal basis of the span of the class means, r = min(K, d), the metrics of
features see Σ_W only through QᵀΣ_WQ and tr Σ_W. So features of any dimension have the same metrics
as statistics of dimension K + 1: the coordinates in Q, and one more that carries what is left of
the trace, tr Σ_W - tr QᵀΣ_WQ, and where no mean reaches.
"""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.validation import ArrayLike, as_features, as_labels, at_least

_CHUNK_BYTES = 64 * 2**20  # float64 working copy of one chunk of samples


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
            self._counts = self._counts.to(x.device)
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
    """

    def __init__(self, counts: Int64[Tensor, "K"], means: Float64[Tensor, "K d"]) -> None:
        empty = (counts < 1).nonzero().flatten().tolist()
        if empty:
            raise ValueError(
                f"every class needs a sample, but classes {empty[:10]} of {len(counts)} have none; "
                "relabel the classes present with numpy.unique(labels, return_inverse=True)"
            )
        self._counts, self._means = counts, means
        self._basis = torch.linalg.qr(means.mT).Q
        r = self._basis.shape[1]
        self._seen = torch.zeros_like(counts)
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
        self._seen += torch.bincount(y, minlength=k)

    def result(self) -> ClassStatistics:
        """The statistics; ValueError when the samples were not those of the means."""
        if not torch.equal(self._seen, self._counts):
            raise ValueError(
                f"the second pass had {self._seen.tolist()} samples per class, the first "
                f"{self._counts.tolist()}; give the same samples twice"
            )
        total = self._counts.sum()
        r, d = self._basis.shape[1], self._means.shape[1]
        means, within = self._means @ self._basis, self._gram / total
        if r < d:
            left = self._class_scatter.sum() / total - within.trace()
            means = torch.nn.functional.pad(means, (0, 1))
            within = torch.nn.functional.pad(within, (0, 1, 0, 1))
            within[-1, -1] = left
        within = (within + within.mT) / 2
        return ClassStatistics(self._counts, means, within, self._class_scatter / self._counts)


def span_statistics(
    features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
) -> ClassStatistics:
    """Statistics of dimension min(d, K + 1) with the metrics of features (N, d), in O(Kd) memory.

    For metrics without a weight only: `minimize` and the rest of the theory need the full Σ_W,
    and a weight (K×d) has no columns for these coordinates.
    """
    x = as_features(features)
    first = MeansBuilder(num_classes)
    rows = max(1, _CHUNK_BYTES // (8 * x.shape[1]))
    y = as_labels(labels, len(x), num_classes=num_classes)
    for part, classes in zip(x.split(rows), y.split(rows), strict=True):
        first.update(part, classes)
    second = SpanBuilder(*first.result())
    second.update(x, y)
    return second.result()

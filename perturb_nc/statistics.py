"""Class statistics of features: all that the near-collapse model and the metrics depend on."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Float64, Int, Int64
from torch import Tensor

from perturb_nc.moments import Moments
from perturb_nc.summary import Summarised
from perturb_nc.validation import (
    ArrayLike,
    affordable,
    as_features,
    as_labels,
    at_least,
    check_populated,
    checked_features,
)

_CHUNK_BYTES = 16 * 2**20  # float64 working copy of one chunk of samples, of which there are six


@dataclass(frozen=True, eq=False, repr=False)
class ClassStatistics(Moments, Summarised):
    """Counts, means and within-class covariance of the features of one layer.

    With class means μ_k, sizes n_k and N = Σ n_k samples:

    Attributes:
        counts: n_k, int64, shape (K,).
        means: μ_k as rows, shape (K, d).
        within: Σ_W = (1/N) Σ_k Σ_i (h_ki - μ_k)(h_ki - μ_k)ᵀ, shape (d, d).
        class_variance: v_k = (1/n_k) Σ_i |h_ki - μ_k|², shape (K,), so that Σ π_k v_k = tr Σ_W.

    Everything is float64. Classes may be imbalanced; none may be empty. The tensors are copied:
    what happens later to those given changes nothing.

    Raises:
        ValueError: fewer than two classes, an empty class, shapes that disagree, NaN or infinity.

    Source: Tirer et al. 2023, Section 2; docs §4.1.
    """

    counts: Int64[Tensor, "K"]
    means: Float64[Tensor, "K d"]
    within: Float64[Tensor, "d d"]
    class_variance: Float64[Tensor, "K"]

    def __post_init__(self) -> None:
        check_and_copy(self)

    @classmethod
    def from_features(
        cls, features: ArrayLike, labels: ArrayLike, num_classes: int | None = None
    ) -> "ClassStatistics":
        """Statistics of features (N, d) with integer labels (N,) in 0..K-1.

        Sums are float64 whatever the dtype of the features, on their device, chunk by chunk.
        num_classes defaults to the largest label plus one.
        """
        x = checked_features(features)
        y = as_labels(labels, len(x), num_classes=num_classes)
        if (highest := int(y.max())) >= len(x):
            raise ValueError(
                f"labels must be 0..K-1 without empty classes, got {highest} among {len(x)} "
                "samples; drop them if that stands for no class, or relabel with "
                "numpy.unique(labels, return_inverse=True)"
            )
        if num_classes is not None and num_classes > len(x):
            raise ValueError(
                f"num_classes must be <= {len(x)}, the number of samples, as no class may be "
                f"empty, got {num_classes}"
            )
        builder = StatisticsBuilder(num_classes)
        for rows in chunks(x):
            builder.update(x[rows], y[rows])
        return builder.result()

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.counts.sum())

    @property
    def priors(self) -> Float64[Tensor, "K"]:
        """π_k = n_k / N."""
        return self.counts.double() / self.counts.sum()

    def _summary(self) -> dict[str, object]:
        sizes = {
            "num_samples": self.num_samples,
            "imbalance": self.counts.max() / self.counts.min(),
        }
        return sizes | super()._summary()

    @property
    def global_mean(self) -> Float64[Tensor, "d"]:
        """μ_G = (1/K) Σ μ_k, the mean of the class means, not of the samples (Tirer et al.)."""
        return self.means.mean(0)

    @property
    def second_moment(self) -> Float64[Tensor, "d d"]:
        """S = HHᵀ/N = Σ_W + MΠMᵀ (uncentred, classes weighted by π_k)."""
        return torch.addmm(self.within, (self.means * self.priors[:, None]).mT, self.means)

    def merge(self, *others: "ClassStatistics") -> "ClassStatistics":
        """Statistics of the union of the samples (same classes, same d)."""
        builder = StatisticsBuilder._of(self)
        for other in others:
            builder.merge(StatisticsBuilder._of(other))
        return builder.result()

    def to(self, device: torch.device | str) -> "ClassStatistics":
        """The same statistics on another device."""
        return ClassStatistics(*(getattr(self, f.name).to(device) for f in fields(self)))


def check_and_copy(moments: Any) -> None:
    """ValueError unless the four tensors are as `ClassStatistics` says; then copies in their place.

    With them a change of the tensors that were given changes nothing here.
    """
    if moments.counts.dtype != torch.int64 or moments.counts.ndim != 1:
        raise ValueError(
            f"counts must be integers (int64) of shape (K,), got {moments.counts.dtype} of shape "
            f"{tuple(moments.counts.shape)}"
        )
    num_classes = len(moments.counts)
    if num_classes < 2:
        raise ValueError(f"statistics need at least 2 classes, got {num_classes}")
    check_populated(moments.counts)
    if (total := moments.counts.double().sum()) > 2**53:
        raise ValueError(f"counts must add up to 2^53 at most, got {total:.3g}")
    d = moments.means.shape[-1] if moments.means.ndim else 0
    if d == 0:
        raise ValueError(f"means must have shape (K, d), got {tuple(moments.means.shape)}")
    wanted = {"means": (num_classes, d), "within": (d, d), "class_variance": (num_classes,)}
    for name, shape in wanted.items():
        tensor = getattr(moments, name)
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
        if tensor.dtype != torch.float64:
            raise ValueError(f"{name} must be float64, got {tensor.dtype}; call .double()")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} must be finite; features overflowed float64 or held NaN")
    for name, variances in (
        ("within", moments.within.diagonal()),
        ("class_variance", moments.class_variance),
    ):
        if (variances < -1e-12 * variances.abs().max()).any():
            raise ValueError(f"variances in {name} must be >= 0, got {variances.min():.3g}")
    for name in ("counts", *wanted):
        object.__setattr__(moments, name, getattr(moments, name).clone())


def check_full(statistics: Any, name: str = "statistics") -> None:
    """TypeError unless the statistics hold the whole Σ_W, which the theory needs."""
    if not isinstance(statistics, ClassStatistics):
        raise TypeError(
            f"{name} must be ClassStatistics with the whole Σ_W, got {type(statistics).__name__}; "
            "collect with covariance='full', where d×d does not fit with reduce='pool', or use "
            "ClassStatistics.from_features"
        )


def chunks(features: Tensor) -> Iterator[slice]:
    """Rows at a time that keep working copies small, and the product for d×d worth its while."""
    d = features.shape[1]
    rows = max(1, _CHUNK_BYTES // (8 * d), d // 8)
    return (slice(start, start + rows) for start in range(0, len(features), rows))


class StatisticsBuilder:
    """Accumulates ClassStatistics batch by batch.

    Each batch is centred on its own class means and joined to the rest by the pairwise update of
    Chan, Golub & LeVeque (1983): scatter_ab = scatter_a + scatter_b + (n_a n_b / (n_a + n_b)) δδᵀ
    per class. Nothing cancels, so a common offset of the features does no harm, and the order of
    the batches changes rounding only. A batch costs one matrix product, O(N_batch d²). Under
    torch.inference_mode its tensors are ordinary ones, to be added to and computed with anywhere.

    Args:
        num_classes: K, or None to take the largest label seen.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self._fixed = num_classes is not None
        size = at_least(num_classes, 2, "num_classes") if num_classes is not None else 0
        self._counts = torch.zeros(size, dtype=torch.int64)
        self._class_scatter = torch.zeros(size, dtype=torch.float64)
        self._means = torch.zeros(size, 0, dtype=torch.float64)  # d comes with the first batch
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    @torch.inference_mode(False)
    def update(self, features: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of features (N, d) and labels (N,)."""
        x = as_features(features, dim=self._means.shape[1] or None)
        limit = len(self._counts) if self._fixed else None
        y = as_labels(labels, len(x), num_classes=limit).to(x.device)
        present, local, counts = torch.unique(y, return_inverse=True, return_counts=True)
        x = x.double()
        means = x.new_zeros(len(present), x.shape[1]).index_add_(0, local, x) / counts[:, None]
        deviations = x - means[local]
        scatter = x.new_zeros(len(present)).index_add_(0, local, deviations.square().sum(1))
        self._reserve(int(present.max()) + 1, means)
        between = self._absorb(present, counts, means, scatter)
        self._add_gram(torch.cat([deviations, between]))

    @torch.inference_mode(False)
    def merge(self, other: "StatisticsBuilder") -> None:
        """Add all that another builder has seen."""
        d, other_d = self._means.shape[1], other._means.shape[1]
        if other_d == 0:
            return
        if d not in (0, other_d):
            raise ValueError(
                f"cannot merge features of dimension {other_d} into dimension {d}; "
                "merge statistics of one layer only"
            )
        if self._fixed and len(other._counts) > len(self._counts):
            raise ValueError(
                f"cannot merge {len(other._counts)} classes into num_classes = "
                f"{len(self._counts)}; build both with the larger number"
            )
        self._reserve(len(other._counts), other._means)
        present = other._counts.nonzero().flatten()
        parts = (present, other._counts[present], other._means[present])
        device = self._counts.device
        rows = self._absorb(*(p.to(device) for p in (*parts, other._class_scatter[present])))
        self._scatter += other._scatter.to(device)
        self._add_gram(rows)

    @torch.inference_mode(False)
    def all_reduce(
        self, group: "torch.distributed.ProcessGroup | None" = None
    ) -> "StatisticsBuilder":
        """A new builder with the samples of every process of a torch.distributed group.

        Every process must call it; a process that saw no sample may take part. The local builder
        stays as it was.
        """
        from torch.distributed import ReduceOp, all_reduce

        device = self._counts.device
        dim = self._means.shape[1]
        # -d beside d: the largest and the smallest dimension in one reduction.
        sizes = torch.tensor([len(self._counts), dim, -dim or -(2**62)], device=device)
        all_reduce(sizes, ReduceOp.MAX, group)
        num_classes, dim, smallest = sizes.tolist()
        if dim and dim != -smallest:
            raise ValueError(f"processes hold features of dimension {-smallest} and {dim}")
        total = StatisticsBuilder(num_classes if self._fixed else None)
        if not dim:
            return total
        total._reserve(num_classes, torch.zeros(0, dim, dtype=torch.float64, device=device))
        total.merge(self)
        counts, own_counts = total._counts.clone(), total._counts.double()
        sums = total._means * own_counts[:, None]
        all_reduce(counts, ReduceOp.SUM, group)
        all_reduce(sums, ReduceOp.SUM, group)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None], 0.0)
        rows = (total._means - means) * own_counts.sqrt()[:, None]
        total._add_gram(rows)
        total._class_scatter += rows.square().sum(1)
        all_reduce(total._scatter, ReduceOp.SUM, group)
        all_reduce(total._class_scatter, ReduceOp.SUM, group)
        total._counts, total._means = counts, means
        return total

    @torch.inference_mode(False)
    def result(self) -> ClassStatistics:
        """The statistics of all samples so far; ValueError when a class has none."""
        if self._means.shape[1] == 0:
            raise ValueError("no batch was added; call update(features, labels) first")
        within = (self._scatter + self._scatter.mT) / (2 * self._counts.sum())
        variance = self._class_scatter / self._counts.clamp(min=1)  # empty classes raise below
        return ClassStatistics(self._counts, self._means, within, variance)

    @classmethod
    @torch.inference_mode(False)
    def _of(cls, statistics: ClassStatistics) -> "StatisticsBuilder":
        builder = cls(statistics.num_classes)
        builder._counts = statistics.counts.clone()
        builder._means = statistics.means.clone()
        builder._scatter = statistics.within * statistics.num_samples
        builder._class_scatter = statistics.class_variance * statistics.counts
        return builder

    def _reserve(self, num_classes: int, like: Float64[Tensor, "n d"]) -> None:
        """Room for num_classes classes, on the device and of the dimension of `like`."""
        if self._means.shape[1] == 0:
            d = like.shape[1]
            affordable(
                3 * 8 * d * d,  # the covariance and two working copies of it
                f"the covariance of features of dimension d = {d}",
                "reduce d first: average-pool or project the features "
                "(collect_statistics(..., reduce='pool'))",
                like.device,
            )
            self._scatter = like.new_zeros(d, d)
            self._means = like.new_zeros(len(self._counts), d)
            self._counts = like.new_zeros(len(self._counts), dtype=torch.int64)
            self._class_scatter = like.new_zeros(len(self._class_scatter))
        grow = num_classes - len(self._counts)
        if grow > 0:
            pad = torch.nn.functional.pad
            self._counts = pad(self._counts, (0, grow))
            self._class_scatter = pad(self._class_scatter, (0, grow))
            self._means = pad(self._means, (0, 0, 0, grow))

    def _absorb(
        self,
        present: Int[Tensor, "c"],
        counts: Int[Tensor, "c"],
        means: Float[Tensor, "c d"],
        class_scatter: Float[Tensor, "c"],
    ) -> Float[Tensor, "c d"]:
        """Join new counts, means and variances; returns the rows √(n_a n_b/(n_a+n_b)) δ."""
        total = self._counts[present] + counts
        share = (counts.double() / total)[:, None]
        delta = means - self._means[present]
        rows = delta * (self._counts[present][:, None] * share).sqrt()
        self._means[present] += delta * share
        self._class_scatter[present] += class_scatter + rows.square().sum(1)
        self._counts[present] = total
        return rows

    def _add_gram(self, rows: Float[Tensor, "n d"]) -> None:
        self._scatter.addmm_(rows.mT, rows)

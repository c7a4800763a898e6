"""Class statistics of features: all that the near-collapse model and the metrics depend on."""

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.accumulation import Accumulation, chunks
from perturb_nc.moments import Moments
from perturb_nc.summary import Summarised
from perturb_nc.validation import (
    ArrayLike,
    as_labels,
    check_populated,
    checked_features,
    instance,
)


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

    @cached_property
    @torch.inference_mode(False)
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
    for name in ("counts", "means", "within", "class_variance"):
        remedy = "of features and labels, ClassStatistics.from_features makes statistics"
        instance(getattr(moments, name), torch.Tensor, name, remedy)
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
        # The sum alone takes a tenth of the time; one of finite numbers may overflow.
        if not (tensor.sum().isfinite() or tensor.isfinite().all()):
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


class StatisticsBuilder(Accumulation):
    """Accumulates ClassStatistics batch by batch; see `Accumulation` for how.

    Args:
        num_classes: K, or None to take the largest label seen.
    """

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

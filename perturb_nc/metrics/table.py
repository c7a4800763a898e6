"""Every collapse metric, as a function of class statistics (and a weight).

The functions stand in `within` (NC1), `frame` (NC2) and `duality` (NC3).
Papers differ in normalisation; each function names its source. In all of them M̃ has rows
μ_k - μ_G with μ_G the mean of the class means, and Σ_B = M̃ᵀM̃/K.
Metrics that decompose a d×d matrix are in `perturb_nc.metrics.covariance`, those that need the
samples themselves in `perturb_nc.metrics.samples`. Statistics with leading batch dimensions
(`perturb_nc.theory.batch_points`) give metrics with these dimensions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

from perturb_nc.metrics.duality import (
    Weight,
    dnc3,
    nc3_alignment,
    nc3_duality,
    nc3_uniformity,
)
from perturb_nc.metrics.frame import (
    discrimination,
    dnc2,
    nc2_angle_std,
    nc2_equiangular,
    nc2_equinorm,
    nc2_etf,
    nc2_of,
    nc2_uniformity,
)
from perturb_nc.metrics.mean_geometry import undefined
from perturb_nc.metrics.within import (
    cdnv,
    directional_cdnv,
    nc1,
    nc1_parker,
    nc1_span,
    nc1_trace,
    within_share,
)
from perturb_nc.moments import Moments, Scalar
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.summary import Summarised
from perturb_nc.validation import ArrayLike, as_matrix, check_pairs, instance

__all__ = [
    "READ_BY_WEIGHT",
    "CollapseMetrics",
    "Moments",
    "collapse_depth",
    "collapse_metrics",
    "metric_tensors",
]

READ_BY_WEIGHT = ("nc3_duality", "nc3_uniformity", "nc3_alignment", "dnc3")


@dataclass(frozen=True, repr=False)
class CollapseMetrics(Summarised):
    """Every collapse metric of one layer that costs O(Kd²), those of pairs of classes O(K²d).

    At full collapse they are 0, but nc3_alignment and dnc2 1, and discrimination what it says.
    Fields carry the names of the functions. dnc1 (Súkeník et al.) is nc1_trace.
    The ones that need a weight are NaN without it, or for a weight of zeros. Where class means
    agree, ratios to their distances are infinite (NaN if nothing varies), angles and shapes NaN.
    """

    nc1_trace: float
    nc1: float
    nc1_parker: float
    nc1_span: float
    nc2_etf: float
    nc2_of: float
    nc2_equinorm: float
    nc2_equiangular: float
    nc2_angle_std: float
    cdnv: float
    within_share: float
    dnc1: float
    dnc2: float
    nc3_duality: float
    nc3_alignment: float
    dnc3: float
    directional_cdnv: float
    discrimination: float
    nc2_uniformity: float
    nc3_uniformity: float

    def as_dict(self) -> dict[str, float]:
        """Name → value, in the order of the fields."""
        return asdict(self)

    def __str__(self) -> str:
        return "\n".join(f"{f.name:<16}{getattr(self, f.name):>14.6g}" for f in fields(self))


def collapse_metrics(statistics: Moments, weight: ArrayLike | None = None) -> CollapseMetrics:
    """All metrics of one layer.

    Args:
        statistics: of the features.
        weight: (m, d) of the layer that reads these features, for nc3_duality and nc3_uniformity
            (m = K), nc3_alignment (m >= K) and dnc3; NaN without it.

    Raises:
        ValueError: a weight that is not (m, d) or not finite, or one for `SpanStatistics`.
        MemoryError: more classes than memory has room for all pairs of.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> metrics = pnc.collapse_metrics(statistics)
        >>> round(metrics.nc1_trace, 3), round(metrics.nc1, 3)
        (0.147, 0.04)

    See Also:
        plot_layers: the metrics of several layers. sampling_intervals: how well they are known.
    """
    instance(statistics, Moments, "statistics", "ClassStatistics.from_features(x, y) makes them")
    k, w = statistics.num_classes, None
    check_pairs(k, "metrics", 5, statistics.means.device)
    if weight is not None and isinstance(statistics, SpanStatistics):
        raise ValueError(
            "weight must be None for SpanStatistics, which keep no coordinates that it reads; "
            "collect with covariance='full' for NC3"
        )
    if weight is not None:
        w = as_matrix(weight, (None, statistics.dim), name="weight").to(statistics.means.device)
    return CollapseMetrics(**{name: v.item() for name, v in metric_tensors(statistics, w).items()})


def metric_tensors(statistics: Moments, weight: Weight | None) -> Mapping[str, Scalar]:
    """Metric name → tensor (0-d without batch), differentiable in statistics and weight."""
    of_features = (
        nc1_trace, nc1, nc1_span, nc2_etf, nc2_of, nc2_equinorm, nc2_equiangular,
        nc2_angle_std, nc2_uniformity, cdnv, directional_cdnv, discrimination, within_share, dnc2,
    )  # fmt: skip
    values = {metric.__name__: metric(statistics) for metric in of_features}
    values["dnc1"] = values["nc1_trace"]
    values[nc1_parker.__name__] = statistics.num_classes * values["nc1"]
    for metric in (nc3_duality, nc3_uniformity, nc3_alignment, dnc3):
        values[metric.__name__] = (
            undefined(statistics) if weight is None else metric(statistics, weight)
        )
    return values


def collapse_depth(layers: Mapping[str, Moments], threshold: float = 0.2) -> str | None:
    """Name of the first layer with cdnv < threshold, None if there is none (Rangamani et al.)."""
    return next((name for name, s in layers.items() if cdnv(s) < threshold), None)

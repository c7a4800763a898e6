"""What a finite sample does to collapse metrics, and estimates without it.

`perturb_nc.metrics.sample_moments` says how.
"""

import math
import warnings
from dataclasses import asdict, dataclass, fields

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.mean_geometry import contrasts
from perturb_nc.metrics.sample_moments import SampleMoments
from perturb_nc.metrics.table import collapse_metrics
from perturb_nc.moments import trace
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.validation import instance

_NOTABLE = 0.05  # relative change of a metric that a table should mention


@dataclass(frozen=True, repr=False)
class DebiasedMetrics(Summarised):
    """Metrics of the features that the samples were drawn from, as `SampleMoments` says.

    NaN where the noise of the means leaves nothing: class means, or their smallest direction for
    nc1 and nc1_span, nearer than their noise; a class with one sample; and for nc1 and nc1_span
    `SpanStatistics` and d < K - 1.
    """

    nc1_trace_debiased: float
    nc1_debiased: float
    nc1_span_debiased: float
    cdnv_debiased: float
    within_share_debiased: float
    between_trace_debiased: float

    def as_dict(self) -> dict[str, float]:
        """Name → value, in the order of the fields."""
        return asdict(self)


def debiased_metrics(statistics: ClassStatistics | SpanStatistics) -> DebiasedMetrics:
    """Collapse metrics without the sampling bias, which a finite sample gives them.

    For measured features: those of an optimum or a path hold the noise of H0 as their own.
    """
    values = _moments(statistics).values()
    names = [field.name for field in fields(DebiasedMetrics)]
    found = {name: values[name.removesuffix("_debiased")].item() for name in names}
    return DebiasedMetrics(**{n: v if v >= 0 else math.nan for n, v in found.items()})


def debiased_distances(statistics: ClassStatistics | SpanStatistics) -> Float64[Tensor, "K K"]:
    """‖μ_c - μ_c'‖² of the true class means, unbiased: below 0 where noise hides the distance."""
    return _moments(statistics).distances()


def split_half_nc1(first: ClassStatistics, second: ClassStatistics) -> float:
    """NC1 from two independent halves of the samples: (1/K) tr(Σ_WΣ_B†) with M̃ from one and other.

    tr(G⁻¹CG⁻¹), G = A₁ᵀA₂ and C = A₁ᵀΣ_WA₂ symmetrised, A the contrasts of the class means: noise
    of the halves is independent and drops out in expectation, whatever its law. NaN where G is not
    positive definite. Warns where n is not ≫ d, and so the inverse of G is noisy.
    """
    for name, half in {"first": first, "second": second}.items():
        instance(half, ClassStatistics, name, "ClassStatistics.from_features(x, y) makes them")
    whole = first.merge(second)
    free = whole.num_samples - 2 * whole.num_classes  # about the halves' own means: those of the
    # whole would bring the difference of the halves back in.
    within = first.within * (first.num_samples / free) + second.within * (second.num_samples / free)
    a, b = contrasts(first), contrasts(second)
    gram, spread = a.mT @ b, a.mT @ within @ b
    root, failed = torch.linalg.cholesky_ex((gram + gram.mT) / 2)
    if note := sampling_note(whole):
        warnings.warn(f"a split-half NC1 is noisy here: {note}", stacklevel=2)
    if failed:
        return math.nan
    turned = torch.cholesky_solve((spread + spread.mT) / 2, root)
    return trace(torch.cholesky_solve(turned.mT, root)).item()


def sampling_note(statistics: ClassStatistics | SpanStatistics) -> str | None:
    """A sentence for tables where a finite sample changes a metric by 5 % and more, else None."""
    plain, debiased = collapse_metrics(statistics), debiased_metrics(statistics)
    changes = {}
    for name in ("nc1_trace", "nc1", "cdnv"):
        value, better = getattr(plain, name), getattr(debiased, f"{name}_debiased")
        known = name != "nc1" or (
            isinstance(statistics, ClassStatistics) and statistics.dim >= statistics.num_classes - 1
        )
        if known and value > 0 and math.isfinite(value):
            changes[name] = abs(math.log(better / value)) if better > 0 else math.inf
    worst = max(changes, key=lambda name: changes[name], default=None)
    if worst is None or changes[worst] < math.log(1 + _NOTABLE):
        return None
    factor = "more than can be told"
    if math.isfinite(changes[worst]):
        ratio = getattr(plain, worst) / getattr(debiased, f"{worst}_debiased")
        factor = f"a factor {ratio:.2g}"
    d = statistics.features_dim if isinstance(statistics, SpanStatistics) else statistics.dim
    return (
        f"few samples for their spread (n >= {int(statistics.counts.min())} a class, d = {d}): "
        f"sampling changes {worst} by {factor}; read the debiased metrics"
    )


def _moments(statistics: ClassStatistics | SpanStatistics) -> SampleMoments:
    kinds = (ClassStatistics, SpanStatistics)
    instance(statistics, kinds, "statistics", "ClassStatistics.from_features(x, y) makes them")
    return SampleMoments.of(statistics)

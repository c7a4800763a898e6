"""Every collapse metric, as a function of class statistics (and a weight).

Papers differ in normalisation; each function names its source. In all of them M̃ has rows
μ_k - μ_G with μ_G the mean of the class means, and Σ_B = M̃ᵀM̃/K.
Metrics that decompose a d×d matrix are in `perturb_nc.covariance_metrics`, those that need the
samples themselves in `perturb_nc.sample_metrics`. Statistics with leading batch dimensions
(`perturb_nc.theory.batch_points`) give metrics with these dimensions.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from perturb_nc.mean_geometry import (
    angle_excess,
    contrasts,
    etf_gram,
    frame_gram,
    log_nearness,
    pair_products,
    pseudo_inverse,
    trace_between,
)
from perturb_nc.moments import Moments, through, trace
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.summary import Summarised
from perturb_nc.validation import ArrayLike, affordable, as_matrix

Scalar = Float64[Tensor, "..."]
READ_BY_WEIGHT = ("nc3_duality", "nc3_uniformity", "nc3_alignment", "dnc3")
Weight = Float[Tensor, "... m d"]


def nc1_trace(statistics: Moments) -> Scalar:
    """ÑC1 = tr Σ_W / tr Σ_B (Tirer et al. 2023). Infinite or NaN when all class means agree."""
    return trace(statistics.within) / trace_between(statistics)


def nc1(statistics: Moments) -> Scalar:
    """NC1 = (1/K) tr(Σ_W Σ_B†) (Papyan, Han & Donoho 2020).

    Σ_B has rank K-1 at most. With A = M̃ᵀC (d×(K-1)), C an orthonormal basis of 1⊥, Σ_B = AAᵀ/K
    and tr(Σ_W Σ_B†)/K = tr(A†Σ_W A†ᵀ): no d×d pseudo-inverse, and the null direction of the
    centring is removed exactly. Directions in which the class means spread less than 1e-5 of
    their largest spread count as none: float32 features leave noise there, which must not be
    inverted. Infinite or NaN, as nc1_trace, when all class means agree.
    """
    inverse, agree = pseudo_inverse(contrasts(statistics), statistics)
    value = (through(inverse, statistics.within) * inverse).sum((-2, -1))
    return torch.where(agree, trace(statistics.within) / 0.0, value)


def nc1_span(statistics: Moments) -> Scalar:
    """tr(PΣ_W) / tr Σ_B with P the projection on the span of the centred class means.

    ÑC1 without the variability that no last layer of the model reads: outside this span the central
    path leaves deviations to weight decay alone, and networks do with them as they please.
    """
    a = contrasts(statistics)
    inverse, agree = pseudo_inverse(a, statistics)
    value = (through(inverse, statistics.within) * a.mT).sum((-2, -1)) / trace_between(statistics)
    return torch.where(agree, trace(statistics.within) / 0.0, value)


def nc1_parker(statistics: Moments) -> Scalar:
    """tr(Σ_W Σ_B†) = K · NC1 (Parker et al. 2023), the separability D of He & Su (2023)."""
    return statistics.num_classes * nc1(statistics)


def nc2_etf(statistics: Moments) -> Scalar:
    """‖ M̃M̃ᵀ/‖M̃M̃ᵀ‖_F - (I - 11ᵀ/K)/√(K-1) ‖_F: distance to a simplex ETF (Tirer et al. 2023)."""
    return _distance(_gram(statistics.centered_means), etf_gram(statistics))


def nc2_of(statistics: Moments) -> Scalar:
    """‖ MMᵀ/‖MMᵀ‖_F - I/√K ‖_F: distance of uncentred means to an orthogonal frame.

    The structure of the bias-free unconstrained features model (Tirer & Bruna 2022).
    """
    return _distance(_gram(statistics.means), frame_gram(statistics))


def nc2_equinorm(statistics: Moments) -> Scalar:
    """std/mean of the norms ‖μ_k - μ_G‖ (Papyan et al. 2020; Parker et al. 2023)."""
    norms = statistics.centered_means.norm(dim=-1)
    return norms.std(-1, correction=0) / norms.mean(-1)


def nc2_equiangular(statistics: Moments) -> Scalar:
    """Mean over pairs of |cos(μ̃_k, μ̃_j) + 1/(K-1)| (Papyan et al. 2020; Parker et al. 2023)."""
    return angle_excess(statistics).abs().mean(-1)


def nc2_angle_std(statistics: Moments) -> Scalar:
    """Standard deviation over pairs of cos(μ̃_k, μ̃_j) + 1/(K-1) (Rangamani et al. 2023).

    The signed mean is 0 for every set of centred means of equal norm, so it is not a metric.
    """
    return angle_excess(statistics).std(-1, correction=0)


def nc2_uniformity(statistics: Moments) -> Scalar:
    """Variance over pairs of log 1/‖û_k - û_l‖, û_k the unit vector along μ_k - μ_G.

    0 wherever all angles are alike (Wu & Papyan 2024). NaN when two class means lie in one
    direction from μ_G, or one lies there. `hyperspherical_energy` is the mean.
    """
    return log_nearness(statistics).var(-1, correction=0)


def hyperspherical_energy(statistics: Moments) -> Scalar:
    """Mean over pairs of log 1/‖û_k - û_l‖, û_k the unit vector along μ_k - μ_G.

    At least -log(2K/(K-1))/2, the value of a simplex ETF (Liu et al. 2023). Infinite when two class
    means lie in one direction from μ_G, NaN when one lies there.
    """
    return log_nearness(statistics).mean(-1)


def discrimination(statistics: Moments) -> Scalar:
    """1 - max over pairs of cos(μ_k, μ_l), uncentred (Wang et al. 2023).

    From 0, two classes in one direction, to K/(K-1), a simplex ETF; 1 for an orthogonal frame. NaN
    when a class mean is 0.
    """
    k, means = statistics.num_classes, statistics.means
    units = means / means.norm(dim=-1, keepdim=True)
    i, j = torch.triu_indices(k, k, 1, device=means.device)
    return 1 - _gram(units)[..., i, j].amax(-1)


def nc3_duality(statistics: Moments, weight: Weight) -> Scalar:
    """‖ W/‖W‖_F - M̃/‖M̃‖_F ‖_F for the last layer's weight W (K×d) (Papyan et al. 2020).

    NaN when the weight does not have one row per class.
    """
    means = statistics.centered_means
    if weight.shape[-2] != means.shape[-2]:
        return _undefined(statistics)
    return torch.linalg.matrix_norm(_unit(weight) - _unit(means))


def nc3_uniformity(statistics: Moments, weight: Weight) -> Scalar:
    """Variance over classes of cos(w_k, μ_k - μ_G): uniform duality (Wu & Papyan 2024).

    0 when every row of W makes the same angle with the mean of its class, as at collapse. NaN when
    the weight does not have one row per class, a row is 0 or a class mean lies at μ_G.
    """
    means = statistics.centered_means
    if weight.shape[-2] != means.shape[-2]:
        return _undefined(statistics)
    cosines = (weight * means).sum(-1) / (weight.norm(dim=-1) * means.norm(dim=-1))
    return cosines.var(-1, correction=0)


def nc3_alignment(statistics: Moments, weight: Weight) -> Scalar:
    """(1/K) Σ σ_i(V_Wᵀ U_M): 1 when W reads exactly the span of the class means.

    V_W: top-K right singular vectors of this layer's weight; U_M: left singular vectors of the
    uncentred means entering the layer (d×K) (Rangamani et al. 2023). NaN when the weight or the
    means have no K independent directions (to 1e-6, the precision of float32 weights), as the
    optimum with bias, whose W has rank K-1.
    """
    k = statistics.num_classes
    # With exactly K rows the top-K right singular subspace is the row space: QR, which unlike the
    # singular vectors is differentiable when singular values coincide, as they do at collapse.
    rows = weight
    if weight.shape[-2] != k:
        rows = torch.linalg.svd(weight, full_matrices=False).Vh[..., :k, :]
    read = torch.linalg.qr(rows.mT).Q
    span = torch.linalg.qr(statistics.means.mT).Q
    value = torch.linalg.matrix_norm(read.mT @ span, "nuc") / k
    full = (_rank(weight) >= k) & (_rank(statistics.means) >= k)
    return torch.where(full, value, math.nan)


def cdnv(statistics: Moments) -> Scalar:
    """Class-distance normalised variance (Galanti, György & Hutter 2022).

    Mean over pairs of (v_c + v_c') / (2 ‖μ_c - μ_c'‖²).
    """
    k, means = statistics.num_classes, statistics.means
    i, j = torch.triu_indices(k, k, 1, device=means.device)
    v = statistics.class_variance
    return ((v[..., i] + v[..., j]) / (2 * pair_products(means, means))).mean(-1)


def directional_cdnv(statistics: Moments) -> Scalar:
    """Mean over pairs of uᵀΣ_Wu / ‖μ_k - μ_l‖², u the unit vector from one mean to the other.

    CDNV of the variability along the line between two classes, which governs few-shot transfer
    (Luthra, Yang & Galanti 2025; they take each class's own covariance, here it is Σ_W). It lies
    in the span of the class means. NaN when two class means agree: no line is between them.
    """
    means = statistics.means
    distances = pair_products(means, means)
    along = pair_products(means, through(means, statistics.within))
    return (along / distances / distances).mean(-1)


def within_share(statistics: Moments) -> Scalar:
    """tr Σ_W / (tr Σ_W + tr Σ_B) (Rangamani et al. 2023)."""
    within = trace(statistics.within)
    return within / (within + trace_between(statistics))


def within_spectrum(statistics: Moments) -> Float64[Tensor, "... d"]:
    """Eigenvalues of Σ_W / tr Σ_B, largest first; their sum is nc1_trace."""
    values = torch.linalg.eigvalsh(statistics.within).flip(-1)
    return values / trace_between(statistics)[..., None]


def dnc2(statistics: Moments) -> Scalar:
    """Condition number of the matrix of (uncentred) class means (Súkeník et al. 2023)."""
    values = torch.linalg.svdvals(statistics.means)
    return values[..., 0] / values[..., -1]


def dnc3(statistics: Moments, weight: Weight) -> Scalar:
    """Norm-weighted mean sine between the rows of W and the nearest class mean (up to sign).

    Σ_j |w_j| min_k sin∠(w_j, μ_k) / Σ_j |w_j|; zero rows carry no weight (Súkeník et al. 2023).
    """
    means = statistics.means / statistics.means.norm(dim=-1, keepdim=True)
    closest = (weight @ means.mT).abs().argmax(-1, keepdim=True)
    nearest = torch.take_along_dim(means, closest, dim=-2)
    # |w - (w·m)m| is |w| sin∠ without a division by |w| or a cancelling √(1 - cos²).
    residuals = weight - (weight * nearest).sum(-1, keepdim=True) * nearest
    return residuals.norm(dim=-1).sum(-1) / weight.norm(dim=-1).sum(-1)


@dataclass(frozen=True, repr=False)
class CollapseMetrics(Summarised):
    """Every collapse metric of one layer that costs O(Kd²), those of pairs of classes O(K²d).

    At full collapse they are 0, but nc3_alignment and dnc2 1, and discrimination what it says.
    Fields carry the names of the functions in this module. dnc1 (Súkeník et al.) is nc1_trace.
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
    k, w = statistics.num_classes, None
    pairs = 40 * k**2  # bytes: five K×K matrices at a time
    affordable(pairs, f"metrics of {k} classes", "leave out classes", statistics.means.device)
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
        nc1_trace, nc1, nc1_parker, nc1_span, nc2_etf, nc2_of, nc2_equinorm, nc2_equiangular,
        nc2_angle_std, nc2_uniformity, cdnv, directional_cdnv, discrimination, within_share, dnc2,
    )  # fmt: skip
    values = {metric.__name__: metric(statistics) for metric in of_features}
    values["dnc1"] = values["nc1_trace"]
    for metric in (nc3_duality, nc3_uniformity, nc3_alignment, dnc3):
        values[metric.__name__] = (
            _undefined(statistics) if weight is None else metric(statistics, weight)
        )
    return values


def collapse_depth(layers: Mapping[str, Moments], threshold: float = 0.2) -> str | None:
    """Name of the first layer with cdnv < threshold, None if there is none (Rangamani et al.)."""
    return next((name for name, s in layers.items() if cdnv(s) < threshold), None)


def _undefined(statistics: Moments) -> Scalar:
    return torch.full_like(trace_between(statistics), math.nan)


def _gram(means: Float64[Tensor, "... K d"]) -> Float64[Tensor, "... K K"]:
    return means @ means.mT


def _rank(matrix: Float[Tensor, "... m n"]) -> Int64[Tensor, "..."]:
    return torch.linalg.matrix_rank(matrix.detach(), rtol=1e-6)


def _unit(matrix: Float[Tensor, "... m n"]) -> Float[Tensor, "... m n"]:
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True)


def _distance(gram: Float64[Tensor, "... K K"], target: Float64[Tensor, "K K"]) -> Scalar:
    return torch.linalg.matrix_norm(_unit(gram) - target)

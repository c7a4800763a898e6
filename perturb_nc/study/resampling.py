"""How much of a measured metric is chance: the jackknife over samples."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from perturb_nc.metrics.sample_moments import SampleMoments, centered_rows, unbiased_square
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.error_bars import Slope
from perturb_nc.study.quantities import QUANTITIES
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.validation import ArrayLike, as_labels, checked_features, named, positive

_BYTES = 32 * 2**20  # of K×K tables of samples left out
_WORK = 1e12  # operations on them at most
_WIDEST = 1.0  # standard error or sampling bias of a logarithm; beyond it an interval says nothing
_BLURRED = 0.2  # relative error of tr Σ_B, above which angles and norms of the means are noise
_RATIOS = ("nc1_trace", "within_share")
_STEEP = ("nc1", "nc1_span", "cdnv")  # their standard error depends on them


def sampling_intervals(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    level: float = 0.95,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> xr.DataArray:
    """Confidence intervals of the collapse metrics that the samples of layers were drawn with.

    The metrics are debiased (`pnc.metrics`); leaving out every sample once tells their standard
    errors and what is left of the sampling bias (the stratified jackknife), from inner products
    with the class means alone. Nothing is drawn at random. For nc1_trace = T/B and within_share the
    interval holds the θ with |T - θB| <= t s(θ), s the error of the difference (Fieller 1954), and
    has no upper end where B may be 0. For nc1, nc1_span and cdnv, whose standard error depends on
    them and is uncertain itself, it is that of `perturb_nc.study.error_bars`: from 0 where noise
    hides Σ_W in the span, infinite where a distance may be 0. For NC2 it is symmetric in the
    logarithm. Plain metrics may lie outside: their sampling bias may exceed the error.

    NaN where it cannot be had, with the reason in `attrs["reasons"]`: class means, or a direction
    or a pair of them, nearer than their noise, classes of less than 4 samples, fewer dimensions
    than K - 1 for NC1, very many classes.

    Args:
        features: layer → (N, d), as many samples in each.
        labels: (N,) in 0..K-1.
        level: wanted coverage, in (0, 1).
        time_limit: seconds after which layers not begun are NaN, with "time_limit came first".
        progress: called as progress(layers, of how many) after every layer.

    Returns:
        (bound, layer, quantity) with bounds "low" and "high", for `compare_layers(intervals=...)`.

    Raises:
        ValueError: no layers, layers of different N, a level outside (0, 1).

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> intervals = pnc.sampling_intervals({"layer": features}, labels)
        >>> intervals.sel(layer="layer", quantity="nc1_trace").values.round(2).tolist()
        [0.14, 0.18]

    See Also:
        collect_features: what it takes. collapse_metrics: plain values. compare_layers: with them.

    Source: Efron & Stein 1981, "The jackknife estimate of variance"; coverage: docs/numerical.md.
    """
    named(features, "features", "(N, d)")
    if not features:
        raise ValueError("features must hold at least one layer, got none")
    level = positive(level, "level")
    if level >= 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}; 0.95 is usual")
    layers = {name: checked_features(x) for name, x in features.items()}
    sizes = {name: len(x) for name, x in layers.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"features must have one number of samples, got {sizes}")
    y = as_labels(labels, next(iter(sizes.values())))
    clock = Clock.of(time_limit, progress)
    found = np.full((2, len(layers), len(QUANTITIES)), np.nan)
    reasons = []
    for place, (name, x) in enumerate(layers.items()):
        if clock.expired():
            found[:, place], why = np.nan, dict.fromkeys(QUANTITIES, "time_limit came first")
        else:
            found[:, place], why = _intervals(x, y.to(x.device), level)
        reasons += [f"{name}, {quantity}: {reason}" for quantity, reason in why.items()]
        clock.report(place + 1, len(layers))
    return xr.DataArray(
        found,
        dims=("bound", "layer", "quantity"),
        coords={"bound": ["low", "high"], "layer": list(layers), "quantity": list(QUANTITIES)},
        attrs={"level": level, "method": "jackknife", "reasons": "; ".join(reasons)},
    )


def _intervals(
    x: Tensor, y: Int64[Tensor, "N"], level: float
) -> tuple[NDArray[np.float64], dict[str, str]]:
    """Bounds of every quantity, and why some are NaN."""
    statistics = ClassStatistics.from_features(x, y)
    found = np.full((2, len(QUANTITIES)), np.nan)
    k, n = statistics.num_classes, statistics.num_samples
    if (fewest := int(statistics.counts.min())) < 4:
        return found, dict.fromkeys(QUANTITIES, f"a class has {fewest} samples, and 4 are needed")
    if n * k**3 > _WORK:
        return found, dict.fromkeys(QUANTITIES, f"K = {k} classes of {n} samples are too many")
    whole = SampleMoments.of(statistics)
    own = {name: value.item() for name, value in _readings(whole).items()}
    parts = [_readings(part) for part in _left_out(whole, statistics, x, y)]
    left = {name: torch.cat([part[name] for part in parts]) for name in own}
    spread = _Jackknife(y, statistics.counts.double())
    blurred = spread.covariance(left["between"], left["between"]) ** 0.5 / abs(own["between"])
    z, reasons = float(ndtri((1 + level) / 2)), dict[str, str]()
    for place, name in enumerate(QUANTITIES):
        if name in _RATIOS:
            found[:, place] = _ratio_interval(
                own, left, spread, level, name == "within_share", _excess(whole)
            )
            continue
        if not (torch.isfinite(left[name]).all() and np.isfinite(own[name])):
            reasons[name] = "the noise of the class means hides them"
            if name.startswith("nc1") and not whole.full:
                reasons[name] = "fewer dimensions than K - 1"
            continue
        if name.startswith("nc2") and blurred > _BLURRED:
            reasons[name] = f"tr Σ_B is known to {blurred:.0%} only"
            continue
        variance = spread.covariance(left[name], left[name])
        shift = spread.sampling_bias(left[name], own[name])
        if name in _STEEP:
            slope = _slope(whole, statistics, name) + spread.slope(left[name])
            found[:, place] = slope.interval(own[name], variance, shift, level)
            continue
        error = variance**0.5
        if max(error, abs(shift)) > _WIDEST:
            reasons[name] = (
                f"too few samples: standard error {error:.2g}, bias {shift:.2g} of a log"
            )
            continue
        found[:, place] = np.exp(own[name] - shift + np.array([-z, z]) * error)
    return found, reasons


def _slope(whole: SampleMoments, statistics: ClassStatistics, name: str) -> Slope:
    within = statistics.within * (statistics.num_samples / (whole.counts.sum() - len(whole.counts)))
    noise = centered_rows(whole.variance / whole.within_trace() / whole.counts)

    def metric(means: Float64[Tensor, "K d"]) -> Tensor:
        gram, spread = means @ means.mT, means @ within @ means.mT
        return replace(whole, gram=gram, spread=spread).values()[name]

    return Slope.of(metric, statistics.centered_means, noise, within)


def _readings(moments: SampleMoments) -> dict[str, Tensor]:
    """The metrics, those of NC2 as logarithms, and numerator and denominator of ÑC1."""
    result = {name: v for name, v in moments.values().items() if name in QUANTITIES}
    result = {name: v.log() if name.startswith("nc2") else v for name, v in result.items()}
    between = moments.true_gram().diagonal(dim1=-2, dim2=-1).sum(-1) / moments.gram.shape[-1]
    return {**result, "within": moments.within_trace(), "between": between}


@dataclass(frozen=True)
class _Jackknife:
    """Errors and sampling bias from values with every sample left out once, class by class."""

    labels: Int64[Tensor, "N"]
    counts: Float64[Tensor, "K"]

    def _means(self, values: Float64[Tensor, "N"]) -> Float64[Tensor, "K"]:
        return torch.zeros_like(self.counts).index_add_(0, self.labels, values) / self.counts

    def covariance(self, one: Float64[Tensor, "N"], other: Float64[Tensor, "N"]) -> float:
        """Σ_k (n_k - 1)/n_k Σ_i (a_ki - ā_k)(b_ki - b̄_k)."""
        a, b = (values - self._means(values)[self.labels] for values in (one, other))
        return (((self.counts - 1) / self.counts)[self.labels] * a * b).sum().item()

    def slope(self, values: Float64[Tensor, "N"]) -> Slope:
        """How the variance moves with the value, of samples that are not Gaussian."""
        n = self.counts[self.labels]
        part = (n - 1) / n * (values - self._means(values)[self.labels]).square()
        own = (part - self._means(part)[self.labels]).square().sum().item()
        return Slope.from_moments(part.sum().item(), self.third(values), own)

    def third(self, values: Float64[Tensor, "N"]) -> float:
        """The third central moment of the value, which is the covariance with its variance."""
        n = self.counts[self.labels]
        pull = (n - 1) / n * (self._means(values)[self.labels] - values)
        return pull.pow(3).sum().item()

    def sampling_bias(self, values: Float64[Tensor, "N"], whole: float) -> float:
        """Σ_k (n_k - 1)(ā_k - a)."""
        return ((self.counts - 1) * (self._means(values) - whole)).sum().item()


def _ratio_interval(
    own: Mapping[str, float],
    left: Mapping[str, Tensor],
    spread: _Jackknife,
    level: float,
    share: bool,
    excess: float,
) -> list[float]:
    """{θ >= 0: (T - θB)² <= z² (var(T - θB) - κ(T - θB))}; of θ/(1 + θ) for a share.

    z is Student's, and κ = μ₃(T)/var(T - θB), at the root of T - θB (of T where B <= 0).
    """
    t, b = own["within"], own["between"]
    ratio = t / b if b > 0 else 0.0
    z = spread.slope(left["within"] - ratio * left["between"]).quantile(level)
    tt = z**2 * spread.covariance(left["within"], left["within"])
    tb = z**2 * spread.covariance(left["within"], left["between"])
    bb = spread.covariance(left["between"], left["between"])
    bb = z**2 * max(bb - excess, bb / 2)
    error = tt - 2 * ratio * tb + ratio**2 * bb  # z² var(T - θB)
    moved = z**4 * max(spread.third(left["within"]), 0.0) / error if error > 0 else 0.0
    square, half, rest = b**2 - bb, t * b - tb + moved * b / 2, t**2 - tt + moved * t
    root = max(half**2 - square * rest, 0.0) ** 0.5
    if square > 0:
        low, high = (half - root) / square, (half + root) / square
    else:  # B may be 0: no upper end
        low, high = rest / (half + root) if half + root > 0 else 0.0, np.inf
    low = max(low, 0.0)
    return [low / (1 + low), high / (1 + high) if high < np.inf else 1.0] if share else [low, high]


def _excess(whole: SampleMoments) -> float:
    """What the jackknife variance of tr Σ_B has too much (Efron & Stein 1981).

    It counts the part that is quadratic in the noise of the means twice: 2 Σ_kl P_kl² tr(Σ_kΣ_l) /
    (n_kn_l), P = J/K the derivative in the Gram matrix of the means, class covariances of one
    shape. Where n is not ≫ d it is most of the variance.
    """
    k, size = len(whole.counts), whole.variance / whole.within_trace() / whole.counts
    pull = centered_rows(torch.ones_like(size)) / k
    return (2 * whole.square * size @ pull.square() @ size).item()


def _left_out(
    whole: SampleMoments, statistics: ClassStatistics, x: Tensor, y: Int64[Tensor, "N"]
) -> Iterator[SampleMoments]:
    """The moments of all samples but one, for every one: chunks of b of them."""
    k, free = statistics.num_classes, statistics.num_samples - statistics.num_classes
    means = statistics.centered_means
    within = statistics.within * (statistics.num_samples / free)
    read = within @ means.mT
    square, size = within.square().sum(), within.diagonal().sum()
    rows = max(1, min(_BYTES // (8 * 8 * k**2), _BYTES // (8 * x.shape[1])))
    for start in range(0, len(x), rows):
        classes = y[start : start + rows]
        deviation = x[start : start + rows].double() - statistics.means[classes]
        n = whole.counts[classes]
        norm = deviation.square().sum(1)
        image = ((deviation @ within) * deviation).sum(1)  # δᵀΣ_Wδ
        own = torch.nn.functional.one_hot(classes, k).double()
        a, u = own - 1 / k, 1 / (n - 1)  # M̃ loses a uδᵀ
        seen, image_seen = deviation @ means.mT, deviation @ read
        # Σ_W becomes grow (Σ_W - share δδᵀ): a sample out of a class of n takes n/(n-1) δδᵀ away.
        grow, share = free / (free - 1), n / (n - 1) / free
        moved = seen - a * (u * norm)[:, None]
        spread = _moved(whole.spread, a, image_seen * u[:, None], u**2 * image)
        spread = grow * (spread - share[:, None, None] * moved[:, :, None] * moved[:, None, :])
        variance = ((n - 1) * whole.variance[classes] - n / (n - 1) * norm) / (n - 2)
        squares = grow**2 * (square - 2 * share * image + share**2 * norm**2)
        sizes = grow * (size - share * norm)
        yield replace(
            whole,
            gram=_moved(whole.gram, a, seen * u[:, None], u**2 * norm),
            spread=spread,
            variance=torch.where(own > 0, variance[:, None], whole.variance),
            counts=whole.counts - own,
            square=unbiased_square(squares, sizes, torch.full_like(sizes, free - 1)),
        )


def _moved(
    table: Float64[Tensor, "K K"],
    a: Float64[Tensor, "b K"],
    cross: Float64[Tensor, "b K"],
    own: Float64[Tensor, "b"],
) -> Float64[Tensor, "b K K"]:
    """(M̃ - auᵀ)X(M̃ - auᵀ)ᵀ from M̃XM̃ᵀ, M̃Xu and uᵀXu."""
    half = a[:, :, None] * cross[:, None, :]
    return table - half - half.mT + own[:, None, None] * a[:, :, None] * a[:, None, :]

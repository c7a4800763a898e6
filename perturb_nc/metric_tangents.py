"""Derivative of every collapse metric along a change of the statistics and the weight, by formula.

Notation of `perturb_nc.metrics`; a dot marks the change and ⟨A, B⟩ = tr AᵀB. The statistics may
have leading batch dimensions, and a change more of them in front: several directions at once.
A metric of CollapseMetrics stands in TANGENTS or, with the reason, in WITHOUT_TANGENT.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from perturb_nc import mean_geometry as geometry
from perturb_nc.metric_step import Change, Rows, Step, inner, unit_rows
from perturb_nc.moments import Moments, Scalar, through

__all__ = ["TANGENTS", "WITHOUT_TANGENT", "Change", "metric_tangents"]

_ZERO = 1e-12  # a metric below this is rounding, and a distance has no derivative at 0
Square = Float64[Tensor, "... K K"]


def _nc1_parker(step: Step) -> Scalar:
    """K NC1˙."""
    return step.statistics.num_classes * step.nc1


def _nc1_span(step: Step) -> Scalar:
    """(tr(PΣ_W)˙ - tr(PΣ_W)/tr Σ_B · tr Σ_B˙) / tr Σ_B."""
    (_, inside, moved), (b, db) = step.span, step.between
    return (moved - inside / b * db) / b


def _nc2_etf(step: Step) -> Scalar:
    return _frame(*step.centered, geometry.etf_gram(step.statistics))


def _nc2_of(step: Step) -> Scalar:
    target = geometry.frame_gram(step.statistics)
    return _frame(step.statistics.means, step.change.means, target)


def _frame(means: Rows, moved: Rows, target: Square) -> Scalar:
    """‖U - T‖˙ with U = G/‖G‖, G = MMᵀ: ⟨U - T, G˙ - U⟨U, G˙⟩⟩ / (‖G‖ ‖U - T‖)."""
    gram, half = means @ means.mT, moved @ means.mT
    size = torch.linalg.matrix_norm(gram)
    unit, change = gram / _wide(size), half + half.mT
    gap = unit - target
    turn = inner(gap, change) - inner(gap, unit) * inner(unit, change)
    return turn / (size * torch.linalg.matrix_norm(gap))


def _nc2_equinorm(step: Step) -> Scalar:
    """(s/m)˙ = (s˙ - (s/m)m˙)/m of the norms a_k: a_k˙ = ⟨μ̃_k, μ̃_k˙⟩/a_k, s = std, m = mean."""
    means, moved = step.centered
    norms = means.norm(dim=-1)
    change = (means * moved).sum(-1) / norms
    mean, rate = norms.mean(-1), change.mean(-1)
    return (_std_change(norms, change) - norms.std(-1, correction=0) / mean * rate) / mean


def _nc2_equiangular(step: Step) -> Scalar:
    """Mean of sign(x)x˙ over the pairs' x = cos + 1/(K-1)."""
    x, change = step.cosines
    return (x.sign() * change).mean(-1)


def _nc2_angle_std(step: Step) -> Scalar:
    return _std_change(*step.cosines)


def _std_change(x: Float64[Tensor, "... n"], change: Float64[Tensor, "... n"]) -> Scalar:
    """std(x)˙ = mean((x - x̄)x˙)/std(x)."""
    spread = x - x.mean(-1, keepdim=True)
    return (spread * change).mean(-1) / x.std(-1, correction=0)


def _nc2_uniformity(step: Step) -> Scalar:
    """2 mean((x - x̄)x˙) over the pairs' x = -log(2 - 2cos)/2, x˙ = cos˙/(2 - 2cos)."""
    _, change = step.cosines
    means = step.centered[0]
    units = means / means.norm(dim=-1, keepdim=True)
    gap = geometry.pair_products(units, units)
    return _variance_change(-gap.log() / 2, change / gap)


def _variance_change(x: Float64[Tensor, "... n"], change: Float64[Tensor, "... n"]) -> Scalar:
    return 2 * ((x - x.mean(-1, keepdim=True)) * change).mean(-1)


def _discrimination(step: Step) -> Scalar:
    """-(cos(μ_k, μ_l))˙ of the pair of the largest cosine; NaN where two pairs share it."""
    unit, turn = unit_rows(step.statistics.means, step.change.means)
    k = step.statistics.num_classes
    i, j = torch.triu_indices(k, k, 1, device=unit.device)
    gram, change = unit @ unit.mT, turn @ unit.mT
    cosines, change = gram[..., i, j], (change + change.mT)[..., i, j]
    top, place = cosines.topk(min(2, cosines.shape[-1]), dim=-1)
    place = place[..., :1].expand(*change.shape[:-1], 1)
    slope = -torch.take_along_dim(change, place, dim=-1)[..., 0]
    shared = (top[..., :1] - top[..., 1:] <= _ZERO).any(-1)
    return torch.where(shared, torch.nan, slope)


def _cdnv(step: Step) -> Scalar:
    """Mean over pairs of (v_c˙ + v_c'˙ - (v_c + v_c') D˙/D)/(2D), D = |Δ|², D˙ = 2Δ·Δ˙."""
    v, dv = step.statistics.class_variance, step.change.class_variance
    i, j = torch.triu_indices(v.shape[-1], v.shape[-1], 1, device=v.device)
    distance, growth = step.distances
    change = dv[..., i] + dv[..., j] - (v[..., i] + v[..., j]) * growth
    return (change / (2 * distance)).mean(-1)


def _directional_cdnv(step: Step) -> Scalar:
    """Mean over pairs of (q˙ - 2q D˙/D)/D², q = ΔᵀΣ_WΔ, q˙ = 2Δ˙ᵀΣ_WΔ + ΔᵀΣ_W˙Δ."""
    means, within = step.statistics.means, step.statistics.within
    distance, growth = step.distances
    read = through(means, within)
    along = geometry.pair_products(means, read)
    change = geometry.pair_products(means, through(means, step.change.within))
    change = change + 2 * geometry.pair_products(step.change.means, read)
    return ((change - 2 * along * growth) / distance.square()).mean(-1)


def _within_share(step: Step) -> Scalar:
    """(tr Σ_W˙ tr Σ_B - tr Σ_W tr Σ_B˙)/(tr Σ_W + tr Σ_B)²."""
    (w, dw), (b, db) = step.within, step.between
    return (dw * b - w * db) / (w + b).square()


def _dnc2(step: Step) -> Scalar:
    """(s_1˙ - (s_1/s_r)s_r˙)/s_r of the singular values of M, s_i˙ = u_iᵀM˙v_i.

    NaN where s_1 or s_r is not simple, as for an orthogonal frame, or s_r is rounding.
    """
    u, s, vh = torch.linalg.svd(step.statistics.means, full_matrices=False)
    change = ((u.mT @ step.change.means) * vh).sum(-1)
    first, last = s[..., 0], s[..., -1]
    slope = (change[..., 0] - first / last * change[..., -1]) / last
    apart = s[..., :-1] - s[..., 1:] > _ZERO * s[..., :-1]
    simple = apart[..., :1].all(-1) & apart[..., -1:].all(-1)
    return torch.where(simple & (last > _ZERO * first), slope, torch.nan)


def _nc3_duality(step: Step) -> Scalar:
    """‖Ŵ - M̂‖˙ = ⟨Ŵ - M̂, Ŵ˙ - M̂˙⟩/‖Ŵ - M̂‖ with Â = A/‖A‖, Â˙ = (A˙ - Â⟨Â, A˙⟩)/‖A‖."""
    weight, turned = _unit(step.weight, step.change.weight)
    means, moved = _unit(*step.centered)
    gap = weight - means
    return inner(gap, turned - moved) / torch.linalg.matrix_norm(gap)


def _nc3_uniformity(step: Step) -> Scalar:
    """2 mean((x - x̄)x˙) of x_k = ŵ_k·û_k, unit rows of W and M̃: x˙ = ŵ˙·û + ŵ·û˙."""
    weight, turned = unit_rows(step.weight, step.change.weight)
    means, moved = unit_rows(*step.centered)
    cosines = (weight * means).sum(-1)
    return _variance_change(cosines, (turned * means + weight * moved).sum(-1))


def _nc3_alignment(step: Step) -> Scalar:
    """‖X‖_*˙/K = ⟨UVᵀ, X˙⟩/K, X = QᵀR = USVᵀ of orthonormal bases Q of W's rows, R of M's.

    Bases move by Q˙ = (I - QQᵀ)W˙ᵀT⁻¹ with Wᵀ = QT, up to rotations that leave ‖X‖_* alone.
    """
    k = step.statistics.num_classes
    if step.statistics.dim < k:
        return torch.full_like(step.between[1], torch.nan)
    read, turned = _basis(step.weight, step.change.weight)
    span, moved = _basis(step.statistics.means, step.change.means)
    u, _, vh = torch.linalg.svd(read.mT @ span)
    return inner(u @ vh, turned.mT @ span + read.mT @ moved) / k


def _dnc3(step: Step) -> Scalar:
    """(Σ|r_j|)˙/Σ|w_j| - DNC3 (Σ|w_j|)˙/Σ|w_j|, r = w - (w·m)m with m = μ/|μ| the nearest mean,

    r˙ = w˙ - (w˙·m + w·m˙)m - (w·m)m˙. NaN where a row is 0 or lies along a mean.
    """
    unit, turn = unit_rows(step.statistics.means, step.change.means)
    w, dw = step.weight, step.change.weight
    closest = (w @ unit.mT).abs().argmax(-1, keepdim=True)
    m = torch.take_along_dim(unit, closest, dim=-2)
    dm = torch.take_along_dim(turn, closest.expand(*turn.shape[:-1], 1), dim=-2)
    along = (w * m).sum(-1, keepdim=True)
    rate = (dw * m + w * dm).sum(-1, keepdim=True)
    left, change = w - along * m, dw - rate * m - along * dm
    sines, norms = left.norm(dim=-1), w.norm(dim=-1)
    moved = ((left * change).sum(-1) / sines).sum(-1)
    grown = ((w * dw).sum(-1) / norms).sum(-1)
    return (moved - sines.sum(-1) / norms.sum(-1) * grown) / norms.sum(-1)


TANGENTS: Mapping[str, Callable[[Step], Scalar]] = {
    "nc1_trace": lambda step: step.nc1_trace,
    "nc1": lambda step: step.nc1,
    "nc1_parker": _nc1_parker,
    "nc1_span": _nc1_span,
    "nc2_etf": _nc2_etf,
    "nc2_of": _nc2_of,
    "nc2_equinorm": _nc2_equinorm,
    "nc2_equiangular": _nc2_equiangular,
    "nc2_angle_std": _nc2_angle_std,
    "cdnv": _cdnv,
    "within_share": _within_share,
    "dnc1": lambda step: step.nc1_trace,
    "dnc2": _dnc2,
    "nc3_duality": _nc3_duality,
    "nc3_alignment": _nc3_alignment,
    "dnc3": _dnc3,
    "directional_cdnv": _directional_cdnv,
    "discrimination": _discrimination,
    "nc2_uniformity": _nc2_uniformity,
    "nc3_uniformity": _nc3_uniformity,
}
WITHOUT_TANGENT: Mapping[str, str] = {}


def metric_tangents(
    values: Mapping[str, Scalar], statistics: Moments, weight: Rows, change: Change
) -> dict[str, Scalar]:
    """Change of every metric of `values` = metric_tensors(statistics, weight), one row a class.

    NaN where a metric is undefined, infinite, has no tangent, or is a distance or a deviation
    that is 0.
    """
    step = Step(statistics, weight, change)
    found = {}
    for name, value in values.items():
        tangent = TANGENTS[name](step) if name in TANGENTS else torch.full_like(value, math.nan)
        found[name] = torch.where(_differentiable(value), tangent, torch.nan)
    return found


def _differentiable(value: Scalar) -> Bool[Tensor, "..."]:
    return value.isfinite() & (value.abs() > _ZERO)


def _unit(matrix: Rows, change: Rows) -> tuple[Rows, Rows]:
    """A/‖A‖ and its change."""
    size = torch.linalg.matrix_norm(matrix, keepdim=True)
    unit = matrix / size
    return unit, (change - unit * _wide(inner(unit, change))) / size


def _basis(
    rows: Rows, change: Rows
) -> tuple[Float64[Tensor, "... d K"], Float64[Tensor, "... d K"]]:
    """Orthonormal basis of the rows' span, and its change out of that span."""
    q, triangle = torch.linalg.qr(rows.mT)
    off = change.mT - q @ (q.mT @ change.mT)
    return q, torch.linalg.solve_triangular(triangle, off, upper=True, left=False)


def _wide(values: Scalar) -> Float64[Tensor, "... 1 1"]:
    return values[..., None, None]

"""Derivative of every collapse metric along a change of the statistics and the weight, by formula.

Notation of `perturb_nc.metrics`; a dot marks the change and ⟨A, B⟩ = tr AᵀB. The statistics may
have leading batch dimensions, and a change more of them in front: several directions at once.
A metric of CollapseMetrics stands in TANGENTS or, with the reason, in WITHOUT_TANGENT.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from perturb_nc import metrics
from perturb_nc.metrics import Scalar
from perturb_nc.moments import Moments, trace

_ZERO = 1e-12  # a metric below this is rounding, and a distance has no derivative at 0
Rows = Float64[Tensor, "... K d"]
Square = Float64[Tensor, "... K K"]


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the class means, Σ_W and class variances, and of the weight that reads them."""

    means: Rows
    within: Float64[Tensor, "... d d"]
    class_variance: Float64[Tensor, "... K"]
    weight: Rows


@dataclass(frozen=True, eq=False)
class Step:
    """Statistics and a weight (one row a class) with their change, and what metrics share."""

    statistics: Moments
    weight: Rows
    change: Change

    @cached_property
    def centered(self) -> tuple[Rows, Rows]:
        """M̃ and its change."""
        moved = self.change.means
        return self.statistics.centered_means, moved - moved.mean(-2, keepdim=True)

    @cached_property
    def between(self) -> tuple[Scalar, Scalar]:
        """tr Σ_B = |M̃|²/K and its change 2⟨M̃, M̃˙⟩/K."""
        means, moved = self.centered
        k = self.statistics.num_classes
        return _inner(means, means) / k, 2 * _inner(means, moved) / k

    @cached_property
    def within(self) -> tuple[Scalar, Scalar]:
        """tr Σ_W and its change."""
        return trace(self.statistics.within), trace(self.change.within)

    @cached_property
    def span(self) -> tuple[Scalar, Scalar, Scalar]:
        """tr(A†Σ_WA†ᵀ)˙, tr(PΣ_W) and tr(PΣ_W)˙ of the contrasts A (d×r), P = AA†.

        With X = A†, Y = XΣ_W and Y⊥ = Y(I - P), at constant rank (Golub & Pereyra 1973),

            X˙ = -XA˙X + XXᵀA˙ᵀ(I - P) + (I - XA)A˙ᵀXᵀX,      P˙ = (I - P)A˙X + its transpose,
            tr(XΣ_WXᵀ)˙ = ⟨XΣ_W˙, X⟩ + 2⟨A˙ᵀ, XXᵀY⊥ + (I - XA)YXᵀX⟩ - 2⟨XA˙, YXᵀ⟩,
            tr(PΣ_W)˙ = ⟨XΣ_W˙, Aᵀ⟩ + 2⟨A˙ᵀ, Y⊥⟩,

        and A˙ = M˙ᵀC, as the contrasts C are orthogonal to 1.
        """
        a = metrics.contrasts(self.statistics)
        moved = metrics.helmert(self.statistics).mT @ self.change.means
        x, _ = metrics.pseudo_inverse(a, self.statistics)
        y, turned = x @ self.statistics.within, x @ self.change.within
        off = y - (y @ a) @ x
        read = y @ x.mT
        identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        pull = (x @ x.mT) @ off + ((identity - x @ a) @ read) @ x
        inverse = _inner(turned, x) + 2 * _inner(moved, pull) - 2 * _inner(x @ moved.mT, read)
        return inverse, _inner(y, a.mT), _inner(turned, a.mT) + 2 * _inner(moved, off)

    @cached_property
    def cosines(self) -> tuple[Float64[Tensor, "... pairs"], Float64[Tensor, "... pairs"]]:
        """cos(μ̃_k, μ̃_j) + 1/(K-1) over pairs, and its change ⟨u_k˙, u_j⟩ + ⟨u_k, u_j˙⟩."""
        means, moved = self.centered
        size = means.norm(dim=-1, keepdim=True)
        unit = means / size
        turn = (moved - unit * (unit * moved).sum(-1, keepdim=True)) / size
        k = self.statistics.num_classes
        i, j = torch.triu_indices(k, k, 1, device=means.device)
        gram = turn @ unit.mT
        return metrics.angle_excess(self.statistics), (gram + gram.mT)[..., i, j]

    @cached_property
    def nc1_trace(self) -> Scalar:
        """(tr Σ_W˙ - ÑC1 tr Σ_B˙) / tr Σ_B."""
        (w, dw), (b, db) = self.within, self.between
        return (dw - w / b * db) / b

    @cached_property
    def nc1(self) -> Scalar:
        """`span` says how."""
        return self.span[0]


def _nc1_parker(step: Step) -> Scalar:
    """K NC1˙."""
    return step.statistics.num_classes * step.nc1


def _nc1_span(step: Step) -> Scalar:
    """(tr(PΣ_W)˙ - tr(PΣ_W)/tr Σ_B · tr Σ_B˙) / tr Σ_B."""
    (_, inside, moved), (b, db) = step.span, step.between
    return (moved - inside / b * db) / b


def _nc2_etf(step: Step) -> Scalar:
    return _frame(*step.centered, metrics.etf_gram(step.statistics))


def _nc2_of(step: Step) -> Scalar:
    target = metrics.frame_gram(step.statistics)
    return _frame(step.statistics.means, step.change.means, target)


def _frame(means: Rows, moved: Rows, target: Square) -> Scalar:
    """‖U - T‖˙ with U = G/‖G‖, G = MMᵀ: ⟨U - T, G˙ - U⟨U, G˙⟩⟩ / (‖G‖ ‖U - T‖)."""
    gram, half = means @ means.mT, moved @ means.mT
    size = torch.linalg.matrix_norm(gram)
    unit, change = gram / _wide(size), half + half.mT
    gap = unit - target
    turn = _inner(gap, change) - _inner(gap, unit) * _inner(unit, change)
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


def _cdnv(step: Step) -> Scalar:
    """Mean over pairs of (v_c˙ + v_c'˙ - (v_c + v_c') D˙/D)/(2D), D = |Δ|², D˙ = 2Δ·Δ˙."""
    means, moved, v, dv = (
        step.statistics.means, step.change.means,
        step.statistics.class_variance, step.change.class_variance,
    )  # fmt: skip
    total = torch.zeros_like(step.between[1])
    k = step.statistics.num_classes
    for c in range(k - 1):  # K-1 slices: all pairs at once would be K²d
        gap = means[..., c + 1 :, :] - means[..., c, None, :]
        rate = moved[..., c + 1 :, :] - moved[..., c, None, :]
        size = gap.square().sum(-1)
        growth = 2 * (gap * rate).sum(-1) / size
        variance, change = v[..., c + 1 :] + v[..., c, None], dv[..., c + 1 :] + dv[..., c, None]
        total = total + ((change - variance * growth) / (2 * size)).sum(-1)
    return total / (k * (k - 1) / 2)


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
    return _inner(gap, turned - moved) / torch.linalg.matrix_norm(gap)


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
    return _inner(u @ vh, turned.mT @ span + read.mT @ moved) / k


def _dnc3(step: Step) -> Scalar:
    """(Σ|r_j|)˙/Σ|w_j| - DNC3 (Σ|w_j|)˙/Σ|w_j|, r = w - (w·m)m with m = μ/|μ| the nearest mean,

    r˙ = w˙ - (w˙·m + w·m˙)m - (w·m)m˙. NaN where a row is 0 or lies along a mean.
    """
    means, size = step.statistics.means, step.statistics.means.norm(dim=-1, keepdim=True)
    unit, w, dw = means / size, step.weight, step.change.weight
    turn = (step.change.means - unit * (unit * step.change.means).sum(-1, keepdim=True)) / size
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
    return unit, (change - unit * _wide(_inner(unit, change))) / size


def _basis(
    rows: Rows, change: Rows
) -> tuple[Float64[Tensor, "... d K"], Float64[Tensor, "... d K"]]:
    """Orthonormal basis of the rows' span, and its change out of that span."""
    q, triangle = torch.linalg.qr(rows.mT)
    off = change.mT - q @ (q.mT @ change.mT)
    return q, torch.linalg.solve_triangular(triangle, off, upper=True, left=False)


def _inner(left: Float64[Tensor, "... m n"], right: Float64[Tensor, "... m n"]) -> Scalar:
    return (left * right).sum((-2, -1))


def _wide(values: Scalar) -> Float64[Tensor, "... 1 1"]:
    return values[..., None, None]

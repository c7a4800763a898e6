"""Derivatives of the metrics in `perturb_nc.metrics.duality`.

Notation of `perturb_nc.metrics.tangents`.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.step import Rows, Step, inner, unit_rows, variance_change, wide
from perturb_nc.moments import Scalar


def nc3_duality(step: Step) -> Scalar:
    """‖Ŵ - M̂‖˙ = ⟨Ŵ - M̂, Ŵ˙ - M̂˙⟩/‖Ŵ - M̂‖ with Â = A/‖A‖, Â˙ = (A˙ - Â⟨Â, A˙⟩)/‖A‖."""
    weight, turned = _unit(step.weight, step.change.weight)
    means, moved = _unit(*step.centered)
    gap = weight - means
    return inner(gap, turned - moved) / torch.linalg.matrix_norm(gap)


def nc3_uniformity(step: Step) -> Scalar:
    """2 mean((x - x̄)x˙) of x_k = ŵ_k·û_k, unit rows of W and M̃: x˙ = ŵ˙·û + ŵ·û˙."""
    weight, turned = unit_rows(step.weight, step.change.weight)
    means, moved = unit_rows(*step.centered)
    cosines = (weight * means).sum(-1)
    return variance_change(cosines, (turned * means + weight * moved).sum(-1))


def nc3_alignment(step: Step) -> Scalar:
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


def dnc3(step: Step) -> Scalar:
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


def _unit(matrix: Rows, change: Rows) -> tuple[Rows, Rows]:
    """A/‖A‖ and its change."""
    size = torch.linalg.matrix_norm(matrix, keepdim=True)
    unit = matrix / size
    return unit, (change - unit * wide(inner(unit, change))) / size


def _basis(
    rows: Rows, change: Rows
) -> tuple[Float64[Tensor, "... d K"], Float64[Tensor, "... d K"]]:
    """Orthonormal basis of the rows' span, and its change out of that span."""
    q, triangle = torch.linalg.qr(rows.mT)
    off = change.mT - q @ (q.mT @ change.mT)
    return q, torch.linalg.solve_triangular(triangle, off, upper=True, left=False)

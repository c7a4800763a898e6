"""Derivatives of the metrics in `perturb_nc.metrics.within`.

Notation of `perturb_nc.metrics.tangents`.
"""

import torch

from perturb_nc.metrics import mean_geometry as geometry
from perturb_nc.metrics.step import Step
from perturb_nc.moments import Scalar, through


def nc1_parker(step: Step) -> Scalar:
    """K NC1˙."""
    return step.statistics.num_classes * step.nc1


def nc1_span(step: Step) -> Scalar:
    """(tr(PΣ_W)˙ - tr(PΣ_W)/tr Σ_B · tr Σ_B˙) / tr Σ_B."""
    (_, inside, moved), (b, db) = step.span, step.between
    return (moved - inside / b * db) / b


def cdnv(step: Step) -> Scalar:
    """Mean over pairs of (v_c˙ + v_c'˙ - (v_c + v_c') D˙/D)/(2D), D = |Δ|², D˙ = 2Δ·Δ˙."""
    v, dv = step.statistics.class_variance, step.change.class_variance
    i, j = torch.triu_indices(v.shape[-1], v.shape[-1], 1, device=v.device)
    distance, growth = step.distances
    change = dv[..., i] + dv[..., j] - (v[..., i] + v[..., j]) * growth
    return (change / (2 * distance)).mean(-1)


def directional_cdnv(step: Step) -> Scalar:
    """Mean over pairs of (q˙ - 2q D˙/D)/D², q = ΔᵀΣ_WΔ, q˙ = 2Δ˙ᵀΣ_WΔ + ΔᵀΣ_W˙Δ."""
    means, within = step.statistics.means, step.statistics.within
    distance, growth = step.distances
    read = through(means, within)
    along = geometry.pair_products(means, read)
    change = geometry.pair_products(means, through(means, step.change.within))
    change = change + 2 * geometry.pair_products(step.change.means, read)
    return ((change - 2 * along * growth) / distance.square()).mean(-1)


def within_share(step: Step) -> Scalar:
    """(tr Σ_W˙ tr Σ_B - tr Σ_W tr Σ_B˙)/(tr Σ_W + tr Σ_B)²."""
    (w, dw), (b, db) = step.within, step.between
    return (dw * b - w * db) / (w + b).square()

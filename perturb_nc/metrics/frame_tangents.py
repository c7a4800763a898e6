"""Derivatives of the metrics in `perturb_nc.metrics.frame`.

Notation of `perturb_nc.metrics.tangents`.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics import mean_geometry as geometry
from perturb_nc.metrics.step import ZERO, Rows, Step, inner, unit_rows, variance_change, wide
from perturb_nc.moments import Scalar

Square = Float64[Tensor, "... K K"]


def nc2_etf(step: Step) -> Scalar:
    """‖Û - T‖˙ of the centred means."""
    return _frame(*step.centered, geometry.etf_gram(step.statistics))


def nc2_of(step: Step) -> Scalar:
    """‖Û - T‖˙ of the means as they are."""
    target = geometry.frame_gram(step.statistics)
    return _frame(step.statistics.means, step.change.means, target)


def _frame(means: Rows, moved: Rows, target: Square) -> Scalar:
    """‖U - T‖˙ with U = G/‖G‖, G = MMᵀ: ⟨U - T, G˙ - U⟨U, G˙⟩⟩ / (‖G‖ ‖U - T‖)."""
    gram, half = means @ means.mT, moved @ means.mT
    size = torch.linalg.matrix_norm(gram)
    unit, change = gram / wide(size), half + half.mT
    gap = unit - target
    turn = inner(gap, change) - inner(gap, unit) * inner(unit, change)
    return turn / (size * torch.linalg.matrix_norm(gap))


def nc2_equinorm(step: Step) -> Scalar:
    """(s/m)˙ = (s˙ - (s/m)m˙)/m of the norms a_k: a_k˙ = ⟨μ̃_k, μ̃_k˙⟩/a_k, s = std, m = mean."""
    means, moved = step.centered
    norms = means.norm(dim=-1)
    change = (means * moved).sum(-1) / norms
    mean, rate = norms.mean(-1), change.mean(-1)
    return (_std_change(norms, change) - norms.std(-1, correction=0) / mean * rate) / mean


def nc2_equiangular(step: Step) -> Scalar:
    """Mean of sign(x)x˙ over the pairs' x = cos + 1/(K-1)."""
    x, change = step.cosines
    return (x.sign() * change).mean(-1)


def nc2_angle_std(step: Step) -> Scalar:
    """std(x)˙ over the pairs' x = cos + 1/(K-1)."""
    return _std_change(*step.cosines)


def _std_change(x: Float64[Tensor, "... n"], change: Float64[Tensor, "... n"]) -> Scalar:
    """std(x)˙ = mean((x - x̄)x˙)/std(x)."""
    spread = x - x.mean(-1, keepdim=True)
    return (spread * change).mean(-1) / x.std(-1, correction=0)


def nc2_uniformity(step: Step) -> Scalar:
    """2 mean((x - x̄)x˙) over the pairs' x = -log(2 - 2cos)/2, x˙ = cos˙/(2 - 2cos)."""
    _, change = step.cosines
    means = step.centered[0]
    units = means / means.norm(dim=-1, keepdim=True)
    gap = geometry.pair_products(units, units)
    return variance_change(-gap.log() / 2, change / gap)


def discrimination(step: Step) -> Scalar:
    """-(cos(μ_k, μ_l))˙ of the pair of the largest cosine; NaN where two pairs share it."""
    unit, turn = unit_rows(step.statistics.means, step.change.means)
    k = step.statistics.num_classes
    i, j = torch.triu_indices(k, k, 1, device=unit.device)
    gram, change = unit @ unit.mT, turn @ unit.mT
    cosines, change = gram[..., i, j], (change + change.mT)[..., i, j]
    top, place = cosines.topk(min(2, cosines.shape[-1]), dim=-1)
    place = place[..., :1].expand(*change.shape[:-1], 1)
    slope = -torch.take_along_dim(change, place, dim=-1)[..., 0]
    shared = (top[..., :1] - top[..., 1:] <= ZERO).any(-1)
    return torch.where(shared, torch.nan, slope)


def dnc2(step: Step) -> Scalar:
    """(s_1˙ - (s_1/s_r)s_r˙)/s_r of the singular values of M, s_i˙ = u_iᵀM˙v_i.

    NaN where s_1 or s_r is not simple, as for an orthogonal frame, or s_r is rounding.
    """
    u, s, vh = torch.linalg.svd(step.statistics.means, full_matrices=False)
    change = ((u.mT @ step.change.means) * vh).sum(-1)
    first, last = s[..., 0], s[..., -1]
    slope = (change[..., 0] - first / last * change[..., -1]) / last
    apart = s[..., :-1] - s[..., 1:] > ZERO * s[..., :-1]
    simple = apart[..., :1].all(-1) & apart[..., -1:].all(-1)
    return torch.where(simple & (last > ZERO * first), slope, torch.nan)

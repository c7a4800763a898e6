"""How alike two layers of the same samples are, whatever their bases: linear CKA."""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.metrics.sample_moments import unbiased_square
from perturb_nc.moments import trace
from perturb_nc.statistics import ClassStatistics


def linear_cka(joint: JointStatistics, *, debiased: bool = True) -> float:
    """Linear centred kernel alignment of two layers, ‖T_ab‖_F² / (‖T_aa‖_F ‖T_bb‖_F).

    T_ab is the covariance of all samples between layers a and b, about their mean (Kornblith et al.
    2019). It lies between 0 and 1, 1 for layers that differ by a rotation, a gain and a shift.

    Plain, layers of few samples in many dimensions look alike: CKA of independent ones tends to 1
    as n/d falls. Debiased, the three squares are unbiased for features that are Gaussian with one
    covariance around the mean of each class; the ratio may then leave [0, 1] by its noise. NaN
    where a layer does not vary, or no more than its noise.
    """
    if _is_still(joint.first) or _is_still(joint.last):
        return math.nan
    pairs = (
        (joint.first, joint.last, joint.cross),
        (joint.first, joint.first, joint.first.within),
        (joint.last, joint.last, joint.last.within),
    )
    squares = [_square(a, b, cross, debiased) for a, b, cross in pairs]
    if min(squares[1:]) <= 0:
        return math.nan
    return squares[0] / math.sqrt(squares[1] * squares[2])


def _is_still(statistics: ClassStatistics) -> bool:
    """Whether all features are alike, to the rounding of their mean."""
    noise = statistics.num_classes * torch.finfo(torch.float64).eps * statistics.means.norm()
    spread = trace(statistics.within) + statistics.centered_means.square().sum()
    return bool(spread <= noise.square())


def _square(
    a: ClassStatistics, b: ClassStatistics, cross: Float64[Tensor, "d e"], debiased: bool
) -> float:
    """‖C + B‖_F² of the total covariance, B that of the class means weighted by π."""
    rows = [s.priors.sqrt()[:, None] * (s.means - s.priors @ s.means) for s in (a, b)]
    between = rows[0].mT @ rows[1]
    if not debiased:
        return (cross + between).square().sum().item()
    n, k = a.num_samples, a.num_classes
    scale = n / (n - k) if n > k else math.nan
    sizes = [(trace(s.within) * scale, r.square().sum()) for s, r in zip((a, b), rows, strict=True)]
    (wa, ba), (wb, bb) = sizes
    unbiased = cross * scale
    products = (unbiased.square().sum(), (unbiased * between).sum(), between.square().sum())
    crossed = wa * wb, ba * wb + bb * wa
    return float(unbiased_total(products, crossed, n, k))


def unbiased_total(
    squares: tuple[Tensor, Tensor, Tensor], traces: tuple[Tensor, Tensor], n: int, k: int
) -> Tensor:
    """‖C + B‖² from S, the unbiased within-class C with f = n - k, and the B̂ of the sample means.

    Args:
        squares: ‖S‖², ⟨S, B̂⟩, ‖B̂‖².
        traces: tr S_a tr S_b and tr B̂_a tr S_b + tr B̂_b tr S_a of the layers' own ones.
        n, k: samples and classes.

    With c = ‖C‖², w = tr C_a tr C_b and e = (k-1)/n: E‖S‖² = (1 + 1/f)c + w/f and E tr S_a tr S_b =
    w + 2c/f give c and w; E B̂ = B + eC and the noise of the means, of covariance C/n,

        E⟨S, B̂⟩ = ⟨C, B⟩ + e c,      E(tr B̂_a tr S_b + …) = tr B_a tr C_b + … + 2e w,
        E‖B̂‖² = ‖B + eC‖² + (tr B_a tr C_b + tr B_b tr C_a + 2⟨C, B⟩)/n + e(w + c)/n.
    """
    f, e = n - k, (k - 1) / n
    within = unbiased_square(squares[0], traces[0].sqrt(), torch.as_tensor(f).to(traces[0]))
    w = traces[0] - 2 * within / f
    mixed = squares[1] - e * within
    across = traces[1] - 2 * e * w
    between = squares[2] - 2 * e * mixed - e**2 * within
    between = between - (across + 2 * mixed) / n - e * (w + within) / n
    return within + 2 * mixed + between

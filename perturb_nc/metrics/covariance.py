"""Metrics beside `CollapseMetrics`: with a d×d decomposition, or of two sets of features.

Σ_B, M̃ and K as in `perturb_nc.metrics`; the total covariance is Σ_T = Σ_W + Σ_B, every class alike.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.mean_geometry import contrasts, pseudo_inverse
from perturb_nc.moments import Moments, trace
from perturb_nc.statistics import ClassStatistics, check_full


def vci(statistics: ClassStatistics) -> float:
    """1 - tr(Σ_T†Σ_B)/rank Σ_B, the variability collapse index (Xu & Liu 2023); O(d³).

    Between 0 at collapse and 1. For balanced classes with independent means it is 1 - R² of linear
    regression on the labels. Invertible linear maps of the features leave it alone. NaN when all
    class means agree.

    With A = M̃ᵀC as in `nc1` and Σ the part of Σ_W in the span of A that a linear function of the
    features outside it cannot tell (the Schur complement), it is tr(V(I + V)⁻¹)/rank Σ_B with
    V = K A†ΣA†ᵀ, whose trace is K · NC1 when the two parts are uncorrelated: nothing cancels near
    collapse.

    Raises:
        TypeError: statistics without the whole Σ_W.
    """
    check_full(statistics)
    a, within = contrasts(statistics), statistics.within
    x, agree = pseudo_inverse(a, statistics)
    if agree:
        return torch.nan
    span = a @ x
    off = torch.diag(torch.ones_like(within.diagonal())) - span
    outside = off @ within @ off
    # Relative to all of Σ_W: outside the span there may be rounding only.
    noise = len(within) * torch.finfo(within.dtype).eps * torch.linalg.matrix_norm(within)
    inverse = torch.linalg.pinv((outside + outside.mT) / 2, hermitian=True, atol=noise, rtol=0.0)
    read = x @ within
    across = read @ off
    left = read @ x.mT - across @ inverse @ across.mT
    values = torch.linalg.eigvalsh((left + left.mT) * (statistics.num_classes / 2)).clamp(min=0)
    return ((values / (1 + values)).sum() / trace(span).round()).item()


def span_spectrum(statistics: Moments) -> Float64[Tensor, "... r"]:
    """Eigenvalues of PΣ_WP / tr Σ_B in the span of the class means, largest first; sum: nc1_span.

    min(d, K - 1) of them, 0 in directions that the class means do not span. P is the projection on
    the span of the centred class means, cut off as in `nc1`: the part of `within_spectrum` that a
    last layer of the model reads (docs §5). NaN when all class means agree. O(Kd²), for
    `SpanStatistics` too.
    """
    a = contrasts(statistics)
    x, agree = pseudo_inverse(a, statistics)
    # P = AA† is that of the rows of A†: an orthonormal basis of them, 0 beyond their rank.
    _, sizes, basis = torch.linalg.svd(x, full_matrices=False)
    kept = sizes > 1e-8 * sizes[..., :1]
    basis = torch.where(kept[..., None], basis, 0.0)
    values = torch.linalg.eigvalsh(basis @ statistics.within @ basis.mT).flip(-1)
    between = statistics.centered_means.square().sum((-2, -1)) / statistics.num_classes
    return torch.where(agree[..., None], torch.nan, values / between[..., None])


def held_out_nc1(train: ClassStatistics, test: ClassStatistics) -> float:
    """(1/N) Σ |h_ki - μ_k|² / tr Σ_B: test samples about the TRAIN means, over the train Σ_B.

    The numerator is tr Σ_W + Σ π_k |μ_k - μ_k(train)|² of the test samples. 0 is strong test
    collapse (Hui, Belkin & Nakkiran 2022); with the train samples as test it is nc1_trace. Infinite
    (NaN if nothing varies) when all train means agree.

    Raises:
        ValueError: other classes or dimensions in the two.
    """
    if train.means.shape != test.means.shape:
        raise ValueError(
            f"train and test must have the same classes and dimension, got {train.num_classes} of "
            f"{train.dim} and {test.num_classes} of {test.dim}; give one layer's features of both"
        )
    moved = (test.means - train.means).square().sum(-1)
    scatter = trace(test.within) + (test.priors * moved).sum()
    between = train.centered_means.square().sum() / train.num_classes
    return (scatter / between).item()

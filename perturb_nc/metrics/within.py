"""Variability within classes against the distances between them: NC1 and its relatives.

Notation of `perturb_nc.metrics`.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.mean_geometry import contrasts, pair_products, pseudo_inverse, trace_between
from perturb_nc.moments import Moments, Scalar, through, trace


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
    path leaves deviations to weight decay alone, and networks do with them as they please. See
    docs §5.
    """
    a = contrasts(statistics)
    inverse, agree = pseudo_inverse(a, statistics)
    value = (through(inverse, statistics.within) * a.mT).sum((-2, -1)) / trace_between(statistics)
    return torch.where(agree, trace(statistics.within) / 0.0, value)


def nc1_parker(statistics: Moments) -> Scalar:
    """tr(Σ_W Σ_B†) = K · NC1 (Parker et al. 2023), the separability D of He & Su (2023)."""
    return statistics.num_classes * nc1(statistics)


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
    """Eigenvalues of Σ_W / tr Σ_B, largest first; their sum is nc1_trace (docs §5)."""
    values = torch.linalg.eigvalsh(statistics.within).flip(-1)
    return values / trace_between(statistics)[..., None]

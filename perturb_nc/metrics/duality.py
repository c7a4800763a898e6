"""How the weight that reads the features lies to the class means: NC3 and its relatives.

Notation of `perturb_nc.metrics`.
"""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from perturb_nc.metrics.mean_geometry import undefined, unit
from perturb_nc.moments import Moments, Scalar

Weight = Float[Tensor, "... m d"]


def nc3_duality(statistics: Moments, weight: Weight) -> Scalar:
    """‖ W/‖W‖_F - M̃/‖M̃‖_F ‖_F for the last layer's weight W (K×d) (Papyan et al. 2020).

    NaN when the weight does not have one row per class.
    """
    means = statistics.centered_means
    if weight.shape[-2] != means.shape[-2]:
        return undefined(statistics)
    return torch.linalg.matrix_norm(unit(weight) - unit(means))


def nc3_uniformity(statistics: Moments, weight: Weight) -> Scalar:
    """Variance over classes of cos(w_k, μ_k - μ_G): uniform duality (Wu & Papyan 2024).

    0 when every row of W makes the same angle with the mean of its class, as at collapse. NaN when
    the weight does not have one row per class, a row is 0 or a class mean lies at μ_G.
    """
    means = statistics.centered_means
    if weight.shape[-2] != means.shape[-2]:
        return undefined(statistics)
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


def _rank(matrix: Float[Tensor, "... m n"]) -> Int64[Tensor, "..."]:
    return torch.linalg.matrix_rank(matrix.detach(), rtol=1e-6)

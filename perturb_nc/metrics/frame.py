"""The frame that the class means form: NC2 and its relatives.

Notation of `perturb_nc.metrics`.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.mean_geometry import angle_excess, etf_gram, frame_gram, log_nearness, unit
from perturb_nc.moments import Moments, Scalar


def nc2_etf(statistics: Moments) -> Scalar:
    """‖ M̃M̃ᵀ/‖M̃M̃ᵀ‖_F - (I - 11ᵀ/K)/√(K-1) ‖_F: distance to a simplex ETF (Tirer et al. 2023)."""
    return _distance(_gram(statistics.centered_means), etf_gram(statistics))


def nc2_of(statistics: Moments) -> Scalar:
    """‖ MMᵀ/‖MMᵀ‖_F - I/√K ‖_F: distance of uncentred means to an orthogonal frame.

    The structure of the bias-free unconstrained features model (Tirer & Bruna 2022).
    """
    return _distance(_gram(statistics.means), frame_gram(statistics))


def nc2_equinorm(statistics: Moments) -> Scalar:
    """std/mean of the norms ‖μ_k - μ_G‖ (Papyan et al. 2020; Parker et al. 2023)."""
    norms = statistics.centered_means.norm(dim=-1)
    return norms.std(-1, correction=0) / norms.mean(-1)


def nc2_equiangular(statistics: Moments) -> Scalar:
    """Mean over pairs of |cos(μ̃_k, μ̃_j) + 1/(K-1)| (Papyan et al. 2020; Parker et al. 2023)."""
    return angle_excess(statistics).abs().mean(-1)


def nc2_angle_std(statistics: Moments) -> Scalar:
    """Standard deviation over pairs of cos(μ̃_k, μ̃_j) + 1/(K-1) (Rangamani et al. 2023).

    The signed mean is 0 for every set of centred means of equal norm, so it is not a metric.
    """
    return angle_excess(statistics).std(-1, correction=0)


def nc2_uniformity(statistics: Moments) -> Scalar:
    """Variance over pairs of log 1/‖û_k - û_l‖, û_k the unit vector along μ_k - μ_G.

    0 wherever all angles are alike (Wu & Papyan 2024). NaN when two class means lie in one
    direction from μ_G, or one lies there. `hyperspherical_energy` is the mean.
    """
    return log_nearness(statistics).var(-1, correction=0)


def hyperspherical_energy(statistics: Moments) -> Scalar:
    """Mean over pairs of log 1/‖û_k - û_l‖, û_k the unit vector along μ_k - μ_G.

    At least -log(2K/(K-1))/2, the value of a simplex ETF (Liu et al. 2023). Infinite when two class
    means lie in one direction from μ_G, NaN when one lies there.
    """
    return log_nearness(statistics).mean(-1)


def discrimination(statistics: Moments) -> Scalar:
    """1 - max over pairs of cos(μ_k, μ_l), uncentred (Wang et al. 2023).

    From 0, two classes in one direction, to K/(K-1), a simplex ETF; 1 for an orthogonal frame. NaN
    when a class mean is 0.
    """
    k, means = statistics.num_classes, statistics.means
    units = means / means.norm(dim=-1, keepdim=True)
    i, j = torch.triu_indices(k, k, 1, device=means.device)
    return 1 - _gram(units)[..., i, j].amax(-1)


def dnc2(statistics: Moments) -> Scalar:
    """Condition number of the matrix of (uncentred) class means (Súkeník et al. 2023)."""
    values = torch.linalg.svdvals(statistics.means)
    return values[..., 0] / values[..., -1]


def _gram(means: Float64[Tensor, "... K d"]) -> Float64[Tensor, "... K K"]:
    return means @ means.mT


def _distance(gram: Float64[Tensor, "... K K"], target: Float64[Tensor, "K K"]) -> Scalar:
    return torch.linalg.matrix_norm(unit(gram) - target)

"""The geometry of class means that metrics share: contrasts, frames, angles, pairs of classes."""

import math

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from perturb_nc.moments import Moments, Scalar

_MANY = 100  # classes, whose differences take longer than their Gram matrix
_CANCELS = 1e-2  # what is left of a difference; more, and two digits are lost at most
_NUMBERS = 2**21  # of differences at a time
_RANK_CUTOFF = 1e-5  # some hundred units in the last place of float32


def contrasts(statistics: Moments) -> Float64[Tensor, "... d r"]:
    """A = M̃ᵀC with C the Helmert contrasts, so that AAᵀ = K Σ_B with full rank K-1."""
    return statistics.centered_means.mT @ helmert(statistics)


def helmert(statistics: Moments) -> Float64[Tensor, "K r"]:
    """C, an orthonormal basis of 1⊥."""
    k = statistics.num_classes
    index = torch.arange(1, k, dtype=torch.float64, device=statistics.means.device)
    columns = torch.triu(torch.ones(k, k - 1, dtype=torch.float64, device=index.device))
    columns[1:].diagonal().copy_(-index)
    return columns / (index * (index + 1)).sqrt()


def pseudo_inverse(
    a: Float64[Tensor, "... d r"], statistics: Moments
) -> tuple[Float64[Tensor, "... r d"], Bool[Tensor, "..."]]:
    """A† of the contrasts, cut off as `nc1` says, and whether all class means agree."""
    # The rounding of the (float64) means themselves, for a common offset of 1e6 and more.
    noise = max(statistics.means.shape[-2:]) * torch.finfo(a.dtype).eps
    noise = noise * torch.linalg.matrix_norm(statistics.means).detach()
    agree = torch.linalg.matrix_norm(a) <= noise
    cutoff = torch.full_like(noise, _RANK_CUTOFF)
    return torch.linalg.pinv(a, atol=noise, rtol=cutoff), agree


def etf_gram(statistics: Moments) -> Float64[Tensor, "K K"]:
    """(I - 11ᵀ/K)/√(K-1), the Gram matrix of a simplex ETF, of norm 1."""
    k = statistics.num_classes
    target = torch.eye(k, dtype=torch.float64, device=statistics.means.device) - 1 / k
    return target / math.sqrt(k - 1)


def frame_gram(statistics: Moments) -> Float64[Tensor, "K K"]:
    """I/√K, the Gram matrix of an orthogonal frame, of norm 1."""
    k = statistics.num_classes
    target = torch.eye(k, dtype=torch.float64, device=statistics.means.device)
    return target / math.sqrt(k)


def angle_excess(statistics: Moments) -> Float64[Tensor, "... pairs"]:
    """cos(μ̃_k, μ̃_j) + 1/(K-1) over pairs of classes, 0 for a simplex ETF."""
    k = statistics.num_classes
    means = statistics.centered_means
    units = means / means.norm(dim=-1, keepdim=True)
    i, j = torch.triu_indices(k, k, 1, device=means.device)
    return (units @ units.mT)[..., i, j] + 1 / (k - 1)


def pair_products(
    left: Float64[Tensor, "... K d"], right: Float64[Tensor, "... K d"]
) -> Float64[Tensor, "... pairs"]:
    """(l_c - l_c')·(r_c - r_c') over pairs of rows.

    From the differences, class by class: |l_c|² + |l_c'|² - 2 l_c·l_c' would cancel for close rows.
    Of many classes it is taken where it does not cancel, which reads the rows once.
    """
    if left.ndim == 2 and len(left) > _MANY:
        return _products_of_many(left, right)
    products = []
    for c in range(left.shape[-2] - 1):
        gap = left[..., c + 1 :, :] - left[..., c, None, :]
        other = gap if right is left else right[..., c + 1 :, :] - right[..., c, None, :]
        products.append((gap * other).sum(-1))
    return torch.cat(products, dim=-1)


def _products_of_many(
    left: Float64[Tensor, "K d"], right: Float64[Tensor, "K d"]
) -> Float64[Tensor, " pairs"]:
    """`pair_products` from Gram matrices, and from the differences of pairs of close rows."""
    one, other = left - left.mean(0), right - right.mean(0)
    inner, sizes = one @ other.mT, one.norm(dim=1) * other.norm(dim=1)
    own = inner.diagonal()
    i, j = torch.triu_indices(len(left), len(left), 1, device=left.device)
    products = own[i] + own[j] - inner[i, j] - inner[j, i]
    close = (products.abs() < _CANCELS * (sizes[i] + sizes[j])).nonzero()[:, 0]
    for part in close.split(max(1, _NUMBERS // left.shape[1])):
        a, b = i[part], j[part]
        exact = ((left[a] - left[b]) * (right[a] - right[b])).sum(-1)
        products = products.index_put((part,), exact)
    return products


def trace_between(statistics: Moments) -> Scalar:
    """tr Σ_B."""
    return statistics.centered_means.square().sum((-2, -1)) / statistics.num_classes


def log_nearness(statistics: Moments) -> Float64[Tensor, "... pairs"]:
    """log 1/‖û_k - û_l‖ over pairs of directions of the centred class means."""
    means = statistics.centered_means
    units = means / means.norm(dim=-1, keepdim=True)
    return -pair_products(units, units).log() / 2


def unit(matrix: Float[Tensor, "... m n"]) -> Float[Tensor, "... m n"]:
    """A matrix over its Frobenius norm."""
    return matrix / torch.linalg.matrix_norm(matrix, keepdim=True)


def undefined(statistics: Moments) -> Scalar:
    """NaN, for each feature set of a batch."""
    return torch.full_like(trace_between(statistics), math.nan)

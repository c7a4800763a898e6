"""Exactly collapsed optima of (1), in closed form (Tirer et al. 2023, Theorem 2.1)."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.validation import at_least, check_pairs, positive


def orthogonal_frame(num_classes: int, dim: int, *, seed: int = 0) -> Float64[Tensor, "K d"]:
    """K random orthonormal rows in R^d: RRᵀ = I; ValueError when d < K."""
    k = at_least(num_classes, 2, "num_classes")
    check_pairs(k, "a frame", 2 * at_least(dim, k, "dim") / k)
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(dim, k, generator=generator, dtype=torch.float64, device="cpu")
    return torch.linalg.qr(draw).Q.mT.contiguous()


def simplex_etf(num_classes: int, dim: int, *, seed: int = 0) -> Float64[Tensor, "K d"]:
    """K rows R with RRᵀ = I - 11ᵀ/K, a simplex equiangular tight frame; needs d >= K-1."""
    k = at_least(num_classes, 2, "num_classes")
    check_pairs(k, "a frame", 2 * (1 + at_least(dim, k - 1, "dim") / k))
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(dim, k - 1, generator=generator, dtype=torch.float64, device="cpu")
    eigenvectors = torch.linalg.eigh(
        torch.full((k, k), 1.0 / k, dtype=torch.float64, device="cpu")
    ).eigenvectors
    return eigenvectors[:, :-1] @ torch.linalg.qr(draw).Q.mT  # all but the direction of 1


@dataclass(frozen=True, eq=False, repr=False)
class ExactCollapse(Summarised):
    """An exactly collapsed global minimiser of (1).

    Attributes:
        rho: squared norm of the class means (of the orthogonal frame they come from, with bias).
        c0: √(λ_W λ_H); the optimum is zero from c0 = 1 on.
        means: √ρ R, (K, d), with RRᵀ = I (with bias: I - 11ᵀ/K).
        weight: √(λ_H/λ_W) √ρ R, (K, d).
        bias: 1/K for every class, or None in the model without bias.
        objective: f = c0 - c0²/2, or 1/2 from c0 = 1 on; times (K-1)/K with bias.
    """

    rho: float
    c0: float
    means: Float64[Tensor, "K d"]
    weight: Float64[Tensor, "K d"]
    bias: Float64[Tensor, "K"] | None
    objective: float

    def statistics(self, samples_per_class: int) -> ClassStatistics:
        """Class statistics of n collapsed features per class."""
        n = at_least(samples_per_class, 1, "samples_per_class")
        k, d = self.means.shape
        counts = torch.full((k,), n, device="cpu")
        variance = torch.zeros(k, dtype=torch.float64, device="cpu")
        return ClassStatistics(counts, self.means, self.means.new_zeros(d, d), variance)


def exact_collapse(
    *,
    num_classes: int,
    dim: int,
    lambda_w: float,
    lambda_h: float,
    bias: bool = False,
    seed: int = 0,
) -> ExactCollapse:
    """The optimum of (1) for balanced classes at β = 0, and at any β when H0 is this optimum.

    Holds for classes of one size, λ_W, λ_H > 0 and d >= K (d >= K-1 with bias). Classes of several
    sizes keep orthogonal means, of several lengths: `deep_collapse_optimum` of one layer. With
    d < K the optimum is no frame.

    With c0 = √(λ_W λ_H) and ρ = max(0, 1 - c0) √(λ_W/λ_H) the class means are √ρ R with R an
    orthogonal frame (a simplex ETF with bias) and W = √(λ_H/λ_W) √ρ R. The frame is free up to
    rotation; `seed` draws one.

    Args:
        num_classes: K >= 2.
        dim: d >= K (d >= K-1 with bias).
        lambda_w: λ_W > 0.
        lambda_h: λ_H > 0.

    Raises:
        ValueError: arguments out of range.

    Example:
        >>> settings = {"num_classes": 4, "dim": 6, "lambda_w": 0.05, "lambda_h": 0.02}
        >>> collapse = pnc.exact_collapse(**settings, bias=True)  # a simplex
        >>> metrics = pnc.collapse_metrics(collapse.statistics(5), collapse.weight)
        >>> metrics.nc1_trace, round(metrics.nc3_duality, 12)
        (0.0, 0.0)

    See Also:
        near_collapse_spectrum: what a change of H0 does to it. small_vicinity: the optimum near it.

    Source: Tirer et al. 2023, Theorem 2.1; with bias Tirer & Bruna 2022.
    """
    lambda_w, lambda_h = positive(lambda_w, "lambda_w"), positive(lambda_h, "lambda_h")
    k = num_classes
    frame = (simplex_etf if bias else orthogonal_frame)(k, dim, seed=seed)
    c0 = math.sqrt(lambda_w * lambda_h)
    shrunk = max(0.0, 1.0 - c0)
    rho = shrunk * math.sqrt(lambda_w / lambda_h)
    means = math.sqrt(rho) * frame
    return ExactCollapse(
        rho=rho,
        c0=c0,
        means=means,
        weight=math.sqrt(lambda_h / lambda_w) * means,
        bias=torch.full((k,), 1.0 / k, dtype=torch.float64, device="cpu") if bias else None,
        objective=0.5 * (1 - shrunk**2) * ((k - 1) / k if bias else 1.0),
    )

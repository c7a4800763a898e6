"""In how many directions features vary."""

from dataclasses import asdict, dataclass

import torch

from perturb_nc.statistics import ClassStatistics, check_full

_SHARE = 0.95  # of the singular values, that the numerical rank holds


@dataclass(frozen=True)
class FeatureRanks:
    """In how many directions the features vary, with σ_i² the eigenvalues of Σ_T, λ_i = σ_i².

    All are at most the rank of Σ_T, reached (or for numerical 95 % of it) when all σ_i are alike,
    and at least 1; K - 1 at collapse to a simplex ETF. NaN where nothing varies.

    Attributes:
        effective: exp(-Σ p_i log p_i), p_i = σ_i / Σσ (Roy & Vetterli 2007).
        participation: (Σλ)² / Σλ².
        numerical: how many of the largest σ_i make 95 % of Σσ (Wang et al. 2023).
    """

    effective: float
    participation: float
    numerical: float

    def as_dict(self) -> dict[str, float]:
        """Name → value, in the order of the fields."""
        return asdict(self)


def feature_ranks(statistics: ClassStatistics) -> FeatureRanks:
    """Effective, participation and numerical rank of the features; O(d³).

    Raises:
        TypeError: statistics without the whole Σ_W.
    """
    check_full(statistics)
    values = torch.linalg.eigvalsh(statistics.within + statistics.between).flip(-1)
    # Below the rounding of the decomposition a singular value is 0; its root would not be small.
    noise = len(values) * torch.finfo(values.dtype).eps * values[0]
    values = values[values > noise]
    if not len(values):
        return FeatureRanks(torch.nan, torch.nan, torch.nan)
    sizes = values.sqrt()
    shares = sizes / sizes.sum()
    short = shares.cumsum(0) < _SHARE - 1e-12  # a share of 95 % to rounding is reached
    return FeatureRanks(
        effective=torch.exp(-(shares * shares.log()).sum()).item(),
        participation=(values.sum().square() / values.square().sum()).item(),
        numerical=float(short.sum() + 1),
    )

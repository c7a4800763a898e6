"""Two layers of the same samples at once: their class statistics, and what binds them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised


@dataclass(frozen=True, eq=False, repr=False)
class JointStatistics(Summarised):
    """Class statistics of two layers, and the within-class covariance between them.

    Attributes:
        first, last: statistics of the layers, of the same samples.
        cross: C = (1/N) Σ_k Σ_i (h_ki - μ_k)(h'_ki - μ'_k)ᵀ, h of the first and h' of the last
            layer, float64, shape (d, d'). Every linear combination ah + bh' (d = d') has
            Σ_W = a²Σ_W + ab(C + Cᵀ) + b²Σ_W'.

    Raises:
        ValueError: other samples per class in the two layers, a shape or dtype that does not fit,
            NaN or infinity, or covariances that no samples have: |C_ij|² > (Σ_W)_ii (Σ_W')_jj.
    """

    first: ClassStatistics
    last: ClassStatistics
    cross: Float64[Tensor, "d e"]

    def __post_init__(self) -> None:
        if not torch.equal(self.first.counts, self.last.counts):
            raise ValueError(
                f"first and last must be of the same samples, got {self.first.counts.tolist()} and "
                f"{self.last.counts.tolist()} per class; collect both in one pass"
            )
        shape = self.first.dim, self.last.dim
        if tuple(self.cross.shape) != shape or self.cross.dtype != torch.float64:
            raise ValueError(
                f"cross must be float64 of shape {shape}, got {self.cross.dtype} of shape "
                f"{tuple(self.cross.shape)}"
            )
        bound = self.first.within.diagonal()[:, None] * self.last.within.diagonal()
        excess = self.cross.square() - bound * (1 + 1e-6)
        if not (excess <= 1e-12 * bound.max()).all():  # NaN too
            raise ValueError(
                "cross must be finite and within the variances of its layers, |C_ij|² <= "
                f"(Σ_W)_ii (Σ_W')_jj, exceeded by {excess.max():.3g}; collect all three in one pass"
            )
        object.__setattr__(self, "cross", self.cross.clone())

    def mixed(self, a: float, b: float) -> ClassStatistics:
        """Class statistics of ah + bh', for layers of one width."""
        within = a**2 * self.first.within + a * b * (self.cross + self.cross.mT)
        means = a * self.first.means + b * self.last.means
        return self.first.moved(means, within + b**2 * self.last.within)

    def _summary(self) -> dict[str, object]:
        ends = {"first": self.first, "last": self.last}
        traces = {f"{name}_nc1_trace": s._summary()["nc1_trace"] for name, s in ends.items()}
        sizes = {"num_samples": self.first.num_samples, "num_classes": self.first.num_classes}
        return sizes | {"dims": [self.first.dim, self.last.dim]} | traces

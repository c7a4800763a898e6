"""The frame nearest to reference class means, and the reference features in its coordinates."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.collapse import simplex_etf

Square = Float64[Tensor, "r r"]
Rows = Float64[Tensor, "r d"]
_INDEPENDENT = 1e-10  # least over largest stretch, below which the polar factor is not determined


@dataclass(frozen=True, eq=False)
class NearestFrame:
    """M0 = RB in the model's r contrasts of classes: all K, or with a bias the K-1 off 1.

    Attributes:
        reference: statistics of H0.
        contrasts: C, (K, r), CᵀC = I; CCᵀ = I - 11ᵀ/K with a bias, C = I without.
        rows: Rᵀ, the orthonormal rows nearest to CᵀM0ᵀ (polar factor), (r, d).
        stretch: B, symmetric positive definite, (r, r).
        has_bias: which of the two.

    Rotations and movements off the span, which the model leaves to the anchor alone, are taken up
    by R exactly; what is small near collapse is B - √ρ I, Σ_W0 and π - 1/K.
    """

    reference: ClassStatistics
    contrasts: Float64[Tensor, "K r"]
    rows: Rows
    stretch: Square
    has_bias: bool

    @cached_property
    def _loaded(self) -> Rows:
        """RᵀΣ_W0."""
        return self.rows @ self.reference.within

    @cached_property
    def within(self) -> Square:
        """T0 = RᵀΣ_W0R."""
        return self._loaded @ self.rows.mT

    @cached_property
    def across(self) -> Rows:
        """Xᵀ = RᵀΣ_W0(I - RRᵀ)."""
        return self._loaded - self.within @ self.rows

    @cached_property
    def imbalance(self) -> Square:
        """N = Cᵀ diag(π - 1/K) C; 0 for balanced classes."""
        excess = self.reference.priors - 1 / self.reference.num_classes
        return self.contrasts.mT @ (excess[:, None] * self.contrasts)

    @cached_property
    def traces(self) -> tuple[float, float]:
        """tr Σ_W0 in the span and off it."""
        inside = self.within.trace().item()
        return inside, self.reference.within.trace().item() - inside

    def mixed(
        self, identity: Tensor, stretch: Tensor, within: Tensor, imbalance: Tensor, across: Tensor
    ) -> Rows:
        """(a I + b B + e T0 + h N)Rᵀ + f Xᵀ, the scalars in the order of `Mixture`."""
        inside = stretch * self.stretch + within * self.within + imbalance * self.imbalance
        inside.diagonal().add_(identity)
        return inside @ self.rows + across * self.across

    def filtered(self, inside: Tensor, across: Tensor, off: Tensor) -> Float64[Tensor, "d d"]:
        """Σ_W0 with its parts in the span, across its border and off it times these factors."""
        part = 0.5 * (inside - off) * self.within @ self.rows + (across - off) * self.across
        half = self.rows.mT @ part
        return off * self.reference.within + half + half.mT

    def of_classes(self, rows: Rows) -> Float64[Tensor, "K d"]:
        """Means of the classes from rows of contrasts; with a bias the samples' mean is 0."""
        means = self.contrasts @ rows
        return means - self.reference.priors @ means if self.has_bias else means


def nearest_frame(statistics: ClassStatistics, bias: bool) -> NearestFrame:
    """The frame nearest to the class means; ValueError where they do not determine one."""
    k, means = statistics.num_classes, statistics.means
    contrasts = simplex_etf(k, k - 1) if bias else torch.diag(means.new_ones(k))
    contrasts = contrasts.to(means.device)
    rows, stretch = polar(contrasts.mT @ means, statistics, bias)
    return NearestFrame(statistics, contrasts, rows, stretch, bias)


def polar(own: Rows, statistics: ClassStatistics, bias: bool) -> tuple[Rows, Square]:
    """Rᵀ and B with BRᵀ = the means in some directions; ValueError where they determine none."""
    k, d, rank = statistics.num_classes, statistics.dim, len(own)
    if d < rank:
        raise ValueError(
            f"statistics must have dim >= {rank} for a frame of {k} classes, got {d}; with fewer "
            "dimensions the optimum is no frame: use minimize"
        )
    u, sizes, vh = torch.linalg.svd(own, full_matrices=False)
    if sizes[-1] <= _INDEPENDENT * sizes[0]:
        raise ValueError(
            "statistics must have class means that are linearly independent"
            f"{' after centring' if bias else ''}, got singular values from {sizes[0]:.3g} down to "
            f"{sizes[-1]:.3g}; no frame is nearest to them: use minimize"
            f"{'' if bias else ', or bias=True if the means are centred'}"
        )
    stretch = (u * sizes) @ u.mT
    return u @ vh, 0.5 * (stretch + stretch.mT)

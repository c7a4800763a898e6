"""A change of class statistics and of a weight, and the parts that derivatives of metrics share."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics import mean_geometry as geometry
from perturb_nc.moments import Covariance, Moments, Scalar, through, trace

Rows = Float64[Tensor, "... K d"]
ZERO = 1e-12  # a metric below this is rounding, and a distance has no derivative at 0


@dataclass(frozen=True, eq=False)
class Change:
    """A change of the class means, Σ_W and class variances, and of the weight that reads them."""

    means: Rows
    within: Float64[Tensor, "... d d"] | Covariance
    class_variance: Float64[Tensor, "... K"]
    weight: Rows


@dataclass(frozen=True, eq=False)
class Step:
    """Statistics and a weight (one row a class) with their change, and what metrics share."""

    statistics: Moments
    weight: Rows
    change: Change

    @cached_property
    def centered(self) -> tuple[Rows, Rows]:
        """M̃ and its change."""
        moved = self.change.means
        return self.statistics.centered_means, moved - moved.mean(-2, keepdim=True)

    @cached_property
    def between(self) -> tuple[Scalar, Scalar]:
        """tr Σ_B = |M̃|²/K and its change 2⟨M̃, M̃˙⟩/K."""
        means, moved = self.centered
        k = self.statistics.num_classes
        return inner(means, means) / k, 2 * inner(means, moved) / k

    @cached_property
    def within(self) -> tuple[Scalar, Scalar]:
        """tr Σ_W and its change."""
        return trace(self.statistics.within), trace(self.change.within)

    @cached_property
    def span(self) -> tuple[Scalar, Scalar, Scalar]:
        """tr(A†Σ_WA†ᵀ)˙, tr(PΣ_W) and tr(PΣ_W)˙ of the contrasts A (d×r), P = AA†.

        With X = A†, Y = XΣ_W and Y⊥ = Y(I - P), at constant rank (Golub & Pereyra 1973),

            X˙ = -XA˙X + XXᵀA˙ᵀ(I - P) + (I - XA)A˙ᵀXᵀX,      P˙ = (I - P)A˙X + its transpose,
            tr(XΣ_WXᵀ)˙ = ⟨XΣ_W˙, X⟩ + 2⟨A˙ᵀ, XXᵀY⊥ + (I - XA)YXᵀX⟩ - 2⟨XA˙, YXᵀ⟩,
            tr(PΣ_W)˙ = ⟨XΣ_W˙, Aᵀ⟩ + 2⟨A˙ᵀ, Y⊥⟩,

        and A˙ = M˙ᵀC, as the contrasts C are orthogonal to 1.
        """
        a = geometry.contrasts(self.statistics)
        moved = geometry.helmert(self.statistics).mT @ self.change.means
        x, _ = geometry.pseudo_inverse(a, self.statistics)
        y = through(x, self.statistics.within)
        turned = through(x, self.change.within)
        off = y - (y @ a) @ x
        read = y @ x.mT
        identity = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device)
        pull = (x @ x.mT) @ off + ((identity - x @ a) @ read) @ x
        inverse = inner(turned, x) + 2 * inner(moved, pull) - 2 * inner(x @ moved.mT, read)
        return inverse, inner(y, a.mT), inner(turned, a.mT) + 2 * inner(moved, off)

    @cached_property
    def cosines(self) -> tuple[Float64[Tensor, "... pairs"], Float64[Tensor, "... pairs"]]:
        """cos(μ̃_k, μ̃_j) + 1/(K-1) over pairs, and its change ⟨u_k˙, u_j⟩ + ⟨u_k, u_j˙⟩."""
        unit, turn = unit_rows(*self.centered)
        k = self.statistics.num_classes
        i, j = torch.triu_indices(k, k, 1, device=unit.device)
        gram = turn @ unit.mT
        return geometry.angle_excess(self.statistics), (gram + gram.mT)[..., i, j]

    @cached_property
    def distances(self) -> tuple[Float64[Tensor, "... pairs"], Float64[Tensor, "... pairs"]]:
        """D = |Δ|² over pairs of class means, and D˙/D with D˙ = 2Δ·Δ˙."""
        means = self.statistics.means
        distance = geometry.pair_products(means, means)
        return distance, 2 * geometry.pair_products(means, self.change.means) / distance

    @cached_property
    def nc1_trace(self) -> Scalar:
        """(tr Σ_W˙ - ÑC1 tr Σ_B˙) / tr Σ_B."""
        (w, dw), (b, db) = self.within, self.between
        return (dw - w / b * db) / b

    @cached_property
    def nc1(self) -> Scalar:
        """`span` says how."""
        return self.span[0]


def unit_rows(rows: Rows, change: Rows) -> tuple[Rows, Rows]:
    """Every row over its norm, and the change u˙ = (r˙ - u(u·r˙))/|r|."""
    size = rows.norm(dim=-1, keepdim=True)
    unit = rows / size
    return unit, (change - unit * (unit * change).sum(-1, keepdim=True)) / size


def inner(left: Float64[Tensor, "... m n"], right: Float64[Tensor, "... m n"]) -> Scalar:
    """⟨A, B⟩ = tr AᵀB."""
    return (left * right).sum((-2, -1))


def variance_change(x: Float64[Tensor, "... n"], change: Float64[Tensor, "... n"]) -> Scalar:
    """var(x)˙ = 2 mean((x - x̄)x˙)."""
    return 2 * ((x - x.mean(-1, keepdim=True)) * change).mean(-1)


def wide(values: Scalar) -> Float64[Tensor, "... 1 1"]:
    """Numbers that multiply matrices."""
    return values[..., None, None]

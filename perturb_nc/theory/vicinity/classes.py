"""Near collapse class by class: unequal class sizes, each with a collapse of its own."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.vicinity.frame import polar

_NEARLY = 0.25  # the largest |Kπ - 1| of classes that count as nearly balanced


def nearly_balanced(statistics: ClassStatistics, most: float = _NEARLY) -> bool:
    """Whether imbalance is as small as other distances from collapse are."""
    excess = statistics.num_classes * statistics.priors - 1
    return bool(excess.abs().max() <= most)


@dataclass(frozen=True, eq=False)
class UnequalClasses:
    """The collapsed optimum of unequal classes nearest to the reference features.

    With (I - π1ᵀ)Π^½ = UΣVᵀ (Π^½ without bias, where U = V = I and σ_k = √π_k), s = √(Kλ_H/λ_W)
    and τ = √(λ_Wλ_H/K), it is

        Π^½M = V diag(x)Rᵀ,  W = U diag(sx)Rᵀ,  x_i² = (σ_i - τ)/s,

    in the directions i with σ_i > τ, and nothing in the others. Rᵀ is the polar factor of VᵀΠ^½M_0.

    Attributes:
        problem: of the reference features.
        left: U, (K, r).
        sizes: σ, (r,).
        back: Π^-½V, (K, r), which gives class means from their directions.
        rows: Rᵀ, (r, d).
        lengths: x, (r,).
        gap: VᵀΠ^½M_0 - diag(x)Rᵀ, (r, d).
    """

    problem: NearCollapseProblem
    left: Float64[Tensor, "K r"]
    sizes: Float64[Tensor, "r"]
    back: Float64[Tensor, "K r"]
    rows: Float64[Tensor, "r d"]
    lengths: Float64[Tensor, "r"]
    gap: Float64[Tensor, "r d"]

    @property
    def slope(self) -> float:
        """s."""
        p = self.problem
        return math.sqrt(p.statistics.num_classes * p.lambda_h / p.lambda_w)

    @property
    def threshold(self) -> float:
        """τ."""
        p = self.problem
        return math.sqrt(p.lambda_w * p.lambda_h / p.statistics.num_classes)

    @property
    def weight(self) -> Float64[Tensor, "K d"]:
        """Of the collapsed optimum."""
        return self.left @ (self.slope * self.lengths[:, None] * self.rows)

    @property
    def means(self) -> Float64[Tensor, "K d"]:
        """Of the classes at collapse; with a bias their mean over samples is 0."""
        return self.back @ (self.lengths[:, None] * self.rows)

    @property
    def attenuations(self) -> Float64[Tensor, "r"]:
        """γ_i = β/(β + sσ_i), what is left of deviations within classes in each direction."""
        return self.problem.beta / (self.problem.beta + self.slope * self.sizes)

    @property
    def distance(self) -> float:
        """|H0 - H*| / |H*|, over samples (of which the mean does not count, with a bias)."""
        within = self.problem.statistics.within.trace()
        return math.sqrt((self.gap.square().sum() + within) / self.lengths.square().sum())

    def refined(self, point: ReducedPoint) -> Float64[Tensor, "K d"]:
        """W - ∇²g₀⁻¹∇g(W), with the Hessian at collapse: one order more.

        Along V = U(v Rᵀ + V⊥) it is, with p_ij = s x_i x_j and c = λ_H + β,

            (σ_j/s - p_ij²/(β + sσ_i) - τ²/(β + sσ_j)) v_ij + p_ij τ (1/(β + sσ_i) + 1/(β + sσ_j))
            v_ji   and   λ_Wβ/(Kc) V⊥.
        """
        p, beta = self.problem, self.problem.beta
        gradient = self.left.mT @ point.gradient
        inside = gradient @ self.rows.mT
        off = gradient - inside @ self.rows
        product = self.slope * torch.outer(self.lengths, self.lengths)
        stiff = 1 / (beta + self.slope * self.sizes)
        own = self.sizes / self.slope - product.square() * stiff[:, None]
        own = own - self.threshold**2 * stiff
        other = product * self.threshold * (stiff[:, None] + stiff)
        step = (own.mT * inside - other * inside.mT) / (own * own.mT - other.square())
        free = p.statistics.num_classes * (p.lambda_h + beta) / (p.lambda_w * beta)
        return point.weight - self.left @ (step @ self.rows + free * off)


def unequal_classes(problem: NearCollapseProblem) -> UnequalClasses:
    """The nearest collapsed optimum; ValueError where some direction has none, or the means do."""
    statistics = problem.statistics
    k, priors = statistics.num_classes, statistics.priors
    rank = k - 1 if problem.bias else k
    roots = torch.diag(priors.sqrt())
    targets = roots - torch.outer(priors, priors.sqrt()) if problem.bias else roots
    left, sizes, right = torch.linalg.svd(targets)
    left, sizes, right = left[:, :rank], sizes[:rank], right[:rank]
    square, least = problem.lambda_w * problem.lambda_h, k * sizes[-1].item() ** 2
    if square >= least:
        raise ValueError(
            f"lambda_w * lambda_h must be < {least:.3g} for classes of sizes "
            f"{statistics.counts.tolist()}, got {square:.3g}; from there on the optimum has "
            "nothing in the direction of the smallest classes: use minimize"
        )
    scale = math.sqrt(k * problem.lambda_h / problem.lambda_w)
    lengths = ((sizes - math.sqrt(square / k)) / scale).sqrt()
    own = right @ roots @ statistics.means
    rows, _ = polar(own, statistics, problem.bias)
    return UnequalClasses(
        problem=problem,
        left=left,
        sizes=sizes,
        back=torch.linalg.solve(roots, right.mT),
        rows=rows,
        lengths=lengths,
        gap=own - lengths[:, None] * rows,
    )

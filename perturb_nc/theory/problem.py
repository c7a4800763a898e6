"""The near-collapse model, problem (1), in terms of class statistics (Tirer et al. 2023)."""

from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.summary import Summarised
from perturb_nc.theory.arrays import cholesky
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.regularization import HYPERPARAMETERS, Regularization
from perturb_nc.validation import ArrayLike, as_matrix, check_pairs


@dataclass(frozen=True, eq=False, repr=False)
class NearCollapseProblem(Summarised):
    """Features H near reference features H0, and the last layer W that reads them.

        f(W, H; H0) = 1/(2N) |WH - Y|² + λ_W/(2K) |W|² + λ_H/(2N) |H|² + β/(2N) |H - H0|²      (1)

    with Y the one-hot labels (K×N); with bias, WH + b1ᵀ in place of WH, b free and unpenalised.
    1/β is the complexity of the sub-network between H0 and H. f depends on H0 through its class
    statistics only, and H is eliminated: g(W) = min_{H,b} f is what the methods evaluate, in
    O(K d²) operations whatever N is.

    Args:
        statistics: class statistics of H0; classes may be imbalanced.
        lambda_w: λ_W > 0.
        lambda_h: λ_H >= 0, not 0 together with beta.
        beta: β >= 0; at 0 this is the unconstrained features model and H0 does not matter.
        bias: whether the last layer has a bias.

    Raises:
        ValueError: hyper-parameters that are negative, not finite, or leave H unbounded.
        TypeError: `SpanStatistics`, which hold no whole Σ_W.

    Source: Tirer, Huang & Niles-Weed 2023, eq. (3); the reduction to statistics: docs §4.1.
    """

    statistics: ClassStatistics
    _: KW_ONLY
    lambda_w: float
    lambda_h: float
    beta: float
    bias: bool = False

    def __post_init__(self) -> None:
        check_full(self.statistics)
        check_pairs(self.statistics.num_classes, "optima", 12, self.statistics.means.device)
        own = self.regularization.bounded()
        for name in HYPERPARAMETERS:
            object.__setattr__(self, name, getattr(own, name))

    def _summary(self) -> dict[str, object]:
        s = self.statistics
        sizes = {"num_classes": s.num_classes, "dim": s.dim, "num_samples": s.num_samples}
        return sizes | vars(self.regularization) | {"bias": self.bias}

    @property
    def regularization(self) -> Regularization:
        """λ_W, λ_H and β."""
        return Regularization(self.lambda_w, self.lambda_h, self.beta)

    def at(self, weight: Float64[Tensor, "K d"]) -> ReducedPoint:
        """The problem at W with H and b at their optimum: means, Σ_W, objective, derivatives."""
        own = self.regularization.as_tensor(weight)
        return ReducedPoint(self.statistics, weight, own, self.bias)

    def objective(self, weight: ArrayLike) -> float:
        """g(W) = min over H (and b) of f(W, H; H0)."""
        return self.at(self.checked_weight(weight)).objective.item()

    def gradient(self, weight: ArrayLike) -> Float64[Tensor, "K d"]:
        """∇g(W) = (WH - T)Hᵀ/N + (λ_W/K)W at the optimal H, with T = Y - b1ᵀ."""
        return self.at(self.checked_weight(weight)).gradient

    def hessian_vector_product(
        self, weight: ArrayLike, direction: ArrayLike
    ) -> Float64[Tensor, "K d"]:
        """∇²g(W)[V], exact."""
        point = self.at(self.checked_weight(weight))
        return point.hessian_vector_product(self.checked_weight(direction, "direction"))

    def central_path_weight(
        self, statistics: ClassStatistics | None = None
    ) -> Float64[Tensor, "K d"]:
        """W*(H) = argmin over W (and b) of f at fixed H = ΠMᵀ(S + (λ_W/K)I)⁻¹.

        statistics: of H, by default of H0. With bias, T - and so H - is centred on the mean of
        the samples. NaN where the statistics are too badly scaled for float64.
        Source: Tirer et al. 2023, eq. (6).
        """
        s = self.statistics if statistics is None else statistics
        pull, moment = s.priors[:, None] * s.means, s.second_moment
        if self.bias:
            mean = s.priors @ s.means
            pull = pull - torch.outer(s.priors, mean)
            moment = moment - torch.outer(mean, mean)
        moment.diagonal().add_(self.lambda_w / s.num_classes)
        return torch.cholesky_solve(pull.mT, cholesky(moment)).mT

    def checked_weight(self, weight: ArrayLike, name: str = "weight") -> Float64[Tensor, "K d"]:
        """A weight-shaped argument as a finite float64 tensor on the device of the statistics."""
        shape = (self.statistics.num_classes, self.statistics.dim)
        return as_matrix(weight, shape, name=name).to(self.statistics.means.device)

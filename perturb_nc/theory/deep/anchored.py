"""A deep linear head on features kept near reference features: models (1) and (2) joined.

    f = 1/(2N) |W_L … W_1 H - Y|² + λ_W/(2K) Σ_l |W_l|² + λ_H/(2N) |H|² + β/(2N) |H - H0|²       (3)

in the units of (1), which is its case L = 1; at β = 0 it is (2). With A = W_L … W_1 the features
are those of (1) for the weight A, so that (3) depends on H0 through its class statistics alone.
ReLU heads have no such reduction: give `reference_features` to `DeepUFM`, with `deep_penalties` for
the units.
"""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.validation import at_least

Weights = list[Tensor]


@dataclass(frozen=True, eq=False, repr=False)
class AnchoredDeepProblem(Summarised):
    """Problem (3), reduced to the class statistics of H0 and the weights of the head.

    Widths of the head do not enter, as long as they are at least K: for given A the best weights
    share its singular values evenly, and Σ_l |W_l|² = L Σ_i σ_i(A)^(2/L).

    Args:
        statistics: class statistics of H0; classes may be imbalanced.
        num_layers: L >= 1 linear layers.
        lambda_w: λ_W > 0, of every layer.
        lambda_h: λ_H >= 0, not 0 together with beta.
        beta: β >= 0.

    Raises:
        ValueError: values out of range.
    """

    statistics: ClassStatistics
    _: KW_ONLY
    num_layers: int
    lambda_w: float
    lambda_h: float
    beta: float

    def __post_init__(self) -> None:
        at_least(self.num_layers, 1, "num_layers")
        self.single_layer()  # whose checks apply

    def single_layer(self) -> NearCollapseProblem:
        """The case L = 1 with the same λ_W, λ_H and β."""
        return NearCollapseProblem(
            self.statistics, lambda_w=self.lambda_w, lambda_h=self.lambda_h, beta=self.beta
        )

    def at(self, weight: Float64[Tensor, "K d"]) -> ReducedPoint:
        """The features for the head A, and all of f but the penalty of the weights."""
        hyperparameters = weight.new_tensor([0.0, self.lambda_h, self.beta])
        return ReducedPoint(self.statistics, weight, hyperparameters, has_bias=False)

    def objective(self, weights: Sequence[Tensor]) -> float:
        """min over H of f, at weights W_1..W_L."""
        return self.value_and_gradient(weights)[0]

    def factors(self, weight: Float64[Tensor, "K d"]) -> Weights:
        """Balanced W_1 (K×d), W_2..W_L (K×K) with product A: the cheapest ones."""
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = (s ** (1 / self.num_layers))[:, None]
        if self.num_layers == 1:
            return [weight]
        k = len(s)
        middle = [torch.diag(root.flatten())] * (self.num_layers - 2)
        return [root * vh, *middle, u[:, :k] * root.mT]

    def value_and_gradient(self, weights: Sequence[Tensor]) -> tuple[float, list[Tensor]]:
        """f and its derivatives in W_1..W_L."""
        heads = [weights[0]]
        for weight in weights[1:]:
            heads.append(weight @ heads[-1])
        point, decay = self.at(heads[-1]), self.lambda_w / self.statistics.num_classes
        back, gradient = point.gradient, []
        for layer in range(len(weights) - 1, -1, -1):
            below = back @ heads[layer - 1].mT if layer > 0 else back
            gradient.append(below + decay * weights[layer])
            back = weights[layer].mT @ back
        penalty = 0.5 * decay * sum(w.square().sum().item() for w in weights)
        return point.objective.item() + penalty, gradient[::-1]

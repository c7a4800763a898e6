"""What an anchored deep head multiplies deviations within a class by: predicted and measured."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.deep.collapse import scalar_optimum
from perturb_nc.validation import at_least, nonnegative, positive


def anchored_contraction(
    *, num_layers: int, lambda_w: float, lambda_h: float, beta: float
) -> float:
    """The within-class contraction of (3) in the span of the class means, at collapsed H0 = H*.

    β/(β + λ_H + a²) with a² = (c p^(2/(L+1))/λ_W)^L the squared singular values of the head,
    c = (λ_H λ_W^L)^(1/(L+1)) and p of `scalar_optimum`; with a² = λ_H x^L, β/(β + λ_H(1 + x^L)).
    At L = 1 it is β/(β + √(λ_H/λ_W)), an eigenvalue of `near_collapse_spectrum`.

    Args:
        num_layers: L >= 1.
        lambda_w, lambda_h: > 0, in the units of (1).
        beta: >= 0.

    Raises:
        ValueError: values out of range.
    """
    num_layers = at_least(num_layers, 1, "num_layers")
    lambda_w, lambda_h = positive(lambda_w, "lambda_w"), positive(lambda_h, "lambda_h")
    beta = nonnegative(beta, "beta")
    c = (lambda_h * lambda_w**num_layers) ** (1 / (num_layers + 1))
    p, _ = scalar_optimum(num_layers, c)
    return beta / (beta + lambda_h + (c * p ** (2 / (num_layers + 1)) / lambda_w) ** num_layers)


def measured_contraction(
    reference: ClassStatistics, features: ClassStatistics, weight: Float[Tensor, "m d"]
) -> tuple[float, float]:
    """Within-class contraction of features against their reference: in, and off, a row space.

    √(tr PΣ_W P / tr PΣ_W0 P) with P the projection on the top K right singular vectors of weight,
    and on their complement.

    Raises:
        ValueError: statistics or a weight of another dimension.
    """
    k, d = reference.means.shape
    if features.dim != d or weight.shape[1] != d:
        raise ValueError(
            f"features and weight must have the dimension {d} of the reference, got "
            f"{features.dim} and {weight.shape[1]}"
        )
    rows = torch.linalg.svd(weight.double(), full_matrices=False).Vh[:k]
    traces = []
    for statistics in (features, reference):
        inside = ((rows @ statistics.within) * rows).sum().item()
        traces.append((inside, statistics.within.trace().item() - inside))
    return math.sqrt(traces[0][0] / traces[1][0]), math.sqrt(traces[0][1] / traces[1][1])

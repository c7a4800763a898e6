"""A solution of the deep ReLU model of lower rank than collapse, from strongly regular graphs.

Classes are the K = r(r-1)/2 edges of the complete graph on r vertices, B (r×K) its vertex-edge
incidence matrix, A (K×K) the graph of disjoint edges (Kneser), strongly regular with eigenvalues
C(r-2,2), -(r-3), 1 of multiplicity 1, r-1, r(r-3)/2. Up to scales

    W_1 H̄_1 = B,   W_2 = … = W_{L-2} = I_r,   W_{L-1} = (11ᵀ - 2Bᵀ)/2,   σ(W_{L-1} B) = A,

and W_L fits the outputs to the labels by ridge regression on A: all layers but the last have rank
r instead of K (Súkeník, Lampert & Mondelli 2024).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.summary import Summarised
from perturb_nc.theory.deep.collapse import (
    Parameters,
    deep_collapse_optimum,
    layer_lambdas,
)
from perturb_nc.validation import at_least, positive


@dataclass(frozen=True, eq=False, repr=False)
class StronglyRegular(Summarised):
    """The strongly-regular-graph (SRG) solution of (2), at its best scales.

    Attributes:
        objective: f, an upper bound of the minimum; 1/2 when the solution is zero.
        collapse: f of the DNC solution.
        ratio: objective / collapse; below 1 collapse is not optimal.
        limit_ratio: what ratio tends to as all λ go to 0.
        order: r, the vertices of the graph.
        rank: rank of H_1..σ(H_{L-1}) and of the weights that read them, r (but 3 for W_{L-1} at
            r = 4); 0 for the zero solution.
        scale: factor of A in the last hidden features, σ(H_L) = scale · A; 0 for zero.
        outputs: WA on the three eigenspaces of A, (3,); 1 would be a perfect fit.
        lambdas: λ_1..λ_L.
        lambda_h: λ_H.
        samples_per_class: n.
    """

    objective: float
    collapse: float
    limit_ratio: float
    order: int
    scale: float
    outputs: Float64[Tensor, "3"]
    lambdas: tuple[float, ...]
    lambda_h: float
    samples_per_class: int

    @property
    def ratio(self) -> float:
        """objective / collapse."""
        return self.objective / self.collapse

    @property
    def rank(self) -> int:
        """Rank of H_1, …, σ(H_{L-1})."""
        return self.order if self.scale > 0 else 0

    def parameters(self, widths: Sequence[int]) -> Parameters:
        """Features and weights that attain `objective`.

        Args:
            widths: d_1..d_L, the dimensions of H_1..H_L: >= r, and the last >= K.

        Raises:
            ValueError: not L widths, or one too small.
        """
        num_layers, r = len(self.lambdas), self.order
        b, a = incidence_matrix(r), disjoint_edges(r)
        k = len(a)
        if len(widths) != num_layers:
            raise ValueError(
                f"widths must be one for each of {num_layers} layers, got {len(widths)}"
            )
        least = [r] * (num_layers - 1) + [k]
        sizes = [at_least(w, low, "widths") for w, low in zip(widths, least, strict=True)]
        u, s, vh = torch.linalg.svd(b, full_matrices=False)
        features = s.sqrt()[:, None] * vh
        eye = torch.diag(b.new_ones(r))
        weights = [u * s.sqrt(), *[eye] * (num_layers - 3), 0.5 - b.mT]
        penalties = [self.samples_per_class * self.lambda_h, *self.lambdas[:-1]]
        factors = [features, *weights]
        costs = [lam * f.square().sum() for lam, f in zip(penalties, factors, strict=True)]
        # Every factor at the same cost, and the product of the scales at `scale`.
        mean = math.prod(cost.item() ** (1 / num_layers) for cost in costs) * self.scale ** (
            2 / num_layers
        )
        features, *weights = (
            (mean / cost).sqrt() * f for cost, f in zip(costs, factors, strict=True)
        )
        hidden = self.scale * a
        ridge = k * self.lambdas[-1] * torch.diag(b.new_ones(k))
        weights.append(torch.linalg.solve(hidden @ hidden + ridge, hidden))
        padded = [
            torch.nn.functional.pad(w, (0, into - w.shape[1], 0, out - w.shape[0]))
            for w, into, out in zip(weights, sizes, [*sizes[1:], k], strict=True)
        ]
        rows = torch.nn.functional.pad(features.mT, (0, sizes[0] - r))
        return rows.repeat_interleave(self.samples_per_class, dim=0), padded


def strongly_regular_solution(
    *,
    num_layers: int,
    num_classes: int,
    samples_per_class: int,
    lambdas: float | Sequence[float],
    lambda_h: float,
) -> StronglyRegular:
    """The SRG solution of (2) for K = r(r-1)/2 classes, beside the DNC solution.

    With the eigenvalues a_j of A, their multiplicities m_j and the scale τ of the last hidden
    features, the ridge-optimal W_L leaves

        f = min_τ  ½ Σ_j m_j λ_L/(τ²a_j² + Kλ_L) + L/2 · (n λ_H Π_{l<L} λ_l · X τ²)^(1/L),
        X = |B|_*² r^(L-3) Kr/4,   |B|_* = √(2(r-1)) + (r-1)√(r-2),

    the product of the squared norms of the other L factors (those of B split evenly). For small
    λ f/f_DNC → [X Σ_j m_j/a_j² / K^(L+1)]^(1/(L+1)).

    Args:
        num_layers: L >= 3.
        num_classes: K = r(r-1)/2 with r >= 4: 6, 10, 15, …
        samples_per_class: n >= 1.
        lambdas: λ_1..λ_L > 0, or one for all.
        lambda_h: λ_H > 0.

    Raises:
        ValueError: arguments out of range, K not of that form.

    Source: Súkeník, Lampert & Mondelli 2024; docs §6.
    """
    num_layers, r = at_least(num_layers, 3, "num_layers"), graph_order(num_classes)
    decays, lambda_h = layer_lambdas(lambdas, num_layers), positive(lambda_h, "lambda_h")
    n = at_least(samples_per_class, 1, "samples_per_class")
    k, last = num_classes, decays[-1]
    nuclear = math.sqrt(2 * (r - 1)) + (r - 1) * math.sqrt(r - 2)
    log_factors = 2 * math.log(nuclear) + (num_layers - 3) * math.log(r) + math.log(k * r / 4)
    log_penalty = math.log(n * lambda_h) + sum(map(math.log, decays[:-1]))
    squares = np.array([math.comb(r - 2, 2) ** 2, (r - 3) ** 2, 1.0])
    multiplicities = np.array([1, r - 1, r * (r - 3) // 2])
    coefficient = math.exp((log_factors + log_penalty) / num_layers)

    def objective(log_square: float) -> float:
        """As a function of the log of the square."""
        fit = last / (math.exp(log_square) * squares + k * last)
        return float(0.5 * multiplicities @ fit) + num_layers / 2 * coefficient * math.exp(
            log_square / num_layers
        )

    def slope(log_square: float) -> float:
        """Its derivative."""
        gains = math.exp(log_square) * squares
        fit = float(multiplicities @ (last * gains / (gains + k * last) ** 2))
        return -0.5 * fit + 0.5 * coefficient * math.exp(log_square / num_layers)

    found = _lowest(objective, slope, math.log(k * last))
    square = 0.0 if found is None else math.exp(found)
    dimension = multiplicities @ (1 / squares)
    log_limit = (log_factors + math.log(dimension)) / (num_layers + 1) - math.log(k)
    gains = torch.from_numpy(square * squares)
    return StronglyRegular(
        objective=0.5 if found is None else objective(found),
        collapse=deep_collapse_optimum(
            num_layers=num_layers,
            num_classes=k,
            samples_per_class=n,
            lambdas=decays,
            lambda_h=lambda_h,
        ).objective,
        limit_ratio=math.exp(log_limit),
        order=r,
        scale=math.sqrt(square),
        outputs=gains / (gains + k * last),
        lambdas=tuple(decays),
        lambda_h=lambda_h,
        samples_per_class=n,
    )


def graph_order(num_classes: int) -> int:
    """r >= 4 with r(r-1)/2 = K, or ValueError."""
    k = at_least(num_classes, 2, "num_classes")
    r = (1 + math.isqrt(1 + 8 * k)) // 2
    if r < 4 or r * (r - 1) // 2 != k:
        raise ValueError(
            f"num_classes must be r(r-1)/2 with r >= 4 (6, 10, 15, 21, …) for a strongly regular "
            f"solution, got {k}"
        )
    return r


def incidence_matrix(order: int) -> Float64[Tensor, "r K"]:
    """B: 1 where a vertex lies on an edge of the complete graph."""
    edges = torch.tensor(list(combinations(range(order), 2)), device="cpu")
    return torch.nn.functional.one_hot(edges, order).sum(1).double().mT


def disjoint_edges(order: int) -> Float64[Tensor, "K K"]:
    """A: 1 where two edges of the complete graph share no vertex."""
    b = incidence_matrix(order)
    return (b.mT @ b == 0).double()


def _lowest(
    objective: Callable[[float], float], slope: Callable[[float], float], scale: float
) -> float | None:
    """The argument of the lowest local minimum below 1/2, None if there is none."""
    grid = np.linspace(scale - 20, scale + 40, 1201)
    best = int(np.argmin([objective(x) for x in grid]))
    if not 0 < best < len(grid) - 1:
        return None
    found = scipy.optimize.brentq(slope, grid[best - 1], grid[best + 1], xtol=1e-14)
    return found if objective(found) < 0.5 else None

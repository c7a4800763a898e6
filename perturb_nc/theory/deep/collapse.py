"""Collapsed optima of the deep unconstrained features model, in closed form (docs §6).

The model, with L weights, σ = ReLU (or the identity), no biases, H_1 free:

    f = 1/(2N) |W_L σ(… W_2 σ(W_1 H_1)) - Y|² + Σ_l λ_l/2 |W_l|² + λ_H/2 |H_1|²                  (2)

Mind the units: λ_H is not divided by N, nor λ_l by K, as they are in the near-collapse model (1);
`deep_penalties` converts.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.summary import Summarised
from perturb_nc.theory.collapse import orthogonal_frame
from perturb_nc.validation import at_least, at_most, nonnegative, positive

Parameters = tuple[Float64[Tensor, "N d"], list[Tensor]]
"""Features H_1 of the samples as rows, class after class, and the weights W_1..W_L."""


@dataclass(frozen=True, eq=False, repr=False)
class DeepCollapse(Summarised):
    """The deep-neural-collapse (DNC) solution of (2): in every layer a direction for each class.

    Attributes:
        objective: f.
        outputs: p_k, the output of a class for itself, (K,); the outputs for other classes are 0.
        singular_values: of W_1..W_L, a row a layer, (L, K); column k carries class k.
        feature_norms: norms of the class means of H_1, (K,).
        strengths: P_k = n_k λ_H Π λ_l, (K,).
        thresholds: class k is nonzero if and only if P_k < thresholds[k], (K,).
        counts: n_k.
    """

    objective: float
    outputs: Float64[Tensor, "K"]
    singular_values: Float64[Tensor, "L K"]
    feature_norms: Float64[Tensor, "K"]
    strengths: Float64[Tensor, "K"]
    thresholds: Float64[Tensor, "K"]
    counts: Int64[Tensor, "K"]

    def parameters(self, widths: Sequence[int], *, seed: int = 0) -> Parameters:
        """Features and weights that attain `objective`, with ReLU as without.

        σ(H_l), l >= 2, has nonnegative class means with disjoint supports, and every row of W_l is
        zero or along a class mean; H_1 sits in a random orthonormal frame.

        Args:
            widths: d_1..d_L, the dimensions of H_1..H_L, all >= K.
            seed: of the frames.

        Raises:
            ValueError: not L widths, or one below K.
        """
        num_layers, k = self.singular_values.shape
        if len(widths) != num_layers:
            raise ValueError(
                f"widths must be one for each of {num_layers} layers, got {len(widths)}"
            )
        generator = torch.Generator().manual_seed(seed)
        frames = [orthogonal_frame(k, at_least(widths[0], k, "widths"), seed=seed)]
        frames += [_nonnegative_frame(k, at_least(w, k, "widths"), generator) for w in widths[1:]]
        frames.append(torch.eye(k, dtype=torch.float64, device="cpu"))
        weights = [
            out.mT @ (values[:, None] * into)
            for values, into, out in zip(self.singular_values, frames[:-1], frames[1:], strict=True)
        ]
        means = self.feature_norms[:, None] * frames[0]
        return means.repeat_interleave(self.counts, dim=0), weights


def deep_collapse_optimum(
    *,
    num_layers: int,
    num_classes: int,
    samples_per_class: int | Sequence[int],
    lambdas: float | Sequence[float],
    lambda_h: float,
) -> DeepCollapse:
    """The DNC solution of (2), class by class a scalar problem.

    With P_k = n_k λ_H Π λ_l and c_k = P_k^(1/(L+1)) / π_k,

        f = Σ_k π_k min_p [ ½(1-p)² + (L+1)/2 · c_k p^(2/(L+1)) ],   (1-p) p^((L-1)/(L+1)) = c_k,

    the largest root; at it λ_l s_lk² = n_k λ_H |h̄_k|² = (P_k p_k²)^(1/(L+1)) for every layer. Class
    k is zero from P_k = π_k^(L+1) (L-1)^(L-1) / L^(2L) on, with a jump at p = (L-1)/L if L >= 2.

    This is the global optimum of the linear model, balanced or not, at widths >= K (the singular
    values of the output are aligned with those of Y by von Neumann's inequality, and Σ λ_l|W_l|² +
    λ_H|H_1|² of a product is a sum over its singular values). With ReLU it is attained too: it is
    the global optimum for two balanced classes, for more an upper bound, which
    `strongly_regular_solution` can beat.

    Args:
        num_layers: L >= 1, the number of weights.
        num_classes: K >= 2.
        samples_per_class: n, or n_1..n_K.
        lambdas: λ_1..λ_L > 0, or one for all.
        lambda_h: λ_H > 0.

    Raises:
        ValueError: arguments out of range, or sequences of a wrong length.

    Source: Súkeník, Mondelli & Lampert 2023 (ReLU, K = 2); Dang et al. 2023 (linear).
    """
    lambdas = layer_lambdas(lambdas, num_layers)
    lambda_h = positive(lambda_h, "lambda_h")
    counts = _counts(samples_per_class, num_classes)
    total, layers = sum(counts), len(lambdas)
    # In logarithms: a product of many small λ may leave float64 though its root does not.
    log_penalty = math.log(lambda_h) + sum(map(math.log, lambdas))
    log_strengths = [math.log(n) + log_penalty for n in counts]
    coefficients = [
        total / n * math.exp(log / (layers + 1))
        for n, log in zip(counts, log_strengths, strict=True)
    ]
    solved = [scalar_optimum(layers, c) for c in coefficients]
    outputs, sizes = _column(p for p, _ in solved), _column(counts)
    priors = sizes / total
    shares = priors * _column(coefficients)
    shares = shares * outputs ** (2 / (layers + 1))
    # (L-1)^(L-1) / L^(2L), without its huge powers
    level = (1 - 1 / layers) ** (layers - 1) * float(layers) ** -(layers + 1)
    return DeepCollapse(
        objective=sum(n / total * value for n, (_, value) in zip(counts, solved, strict=True)),
        outputs=outputs,
        singular_values=torch.stack([(shares / decay).sqrt() for decay in lambdas]),
        feature_norms=(shares / (lambda_h * sizes)).sqrt(),
        strengths=_column(log_strengths).exp(),
        thresholds=level * priors ** (layers + 1),
        counts=torch.tensor(counts, device="cpu"),
    )


def scalar_optimum(num_layers: int, coefficient: float) -> tuple[float, float]:
    """(p, value) of min_p ½(1-p)² + (L+1)/2 · c p^(2/(L+1)); p = 0 where nothing is below 1/2."""
    power = (num_layers - 1) / (num_layers + 1)
    crest = (num_layers - 1) / (2 * num_layers)  # of (1-p) p^power, which decreases from here on

    def slope(p: float) -> float:
        """0 at the optimum."""
        return (1 - p) * p**power - coefficient

    if slope(crest) <= 0:
        return 0.0, 0.5
    p = scipy.optimize.brentq(slope, crest, 1.0, xtol=1e-16)
    value = 0.5 * (1 - p) ** 2 + (num_layers + 1) / 2 * coefficient * p ** (2 / (num_layers + 1))
    return (p, value) if value < 0.5 else (0.0, 0.5)


@dataclass(frozen=True)
class DeepPenalties:
    """λ_l, λ_H and β in the units of (2): λ_l/2 |W_l|², λ_H/2 |H_1|², β/2 |H_1 - H0|²."""

    lambdas: float
    lambda_h: float
    beta: float


def deep_penalties(
    *, lambda_w: float, lambda_h: float, beta: float = 0.0, num_classes: int, num_samples: int
) -> DeepPenalties:
    """Units of the near-collapse model (1) turned into those of (2): λ_W/K, λ_H/N and β/N.

    Back: multiply by K, N and N. Raises ValueError for values out of range.
    """
    k, n = at_least(num_classes, 2, "num_classes"), at_least(num_samples, 1, "num_samples")
    return DeepPenalties(
        lambdas=positive(lambda_w, "lambda_w") / k,
        lambda_h=nonnegative(lambda_h, "lambda_h") / n,
        beta=nonnegative(beta, "beta") / n,
    )


def layer_lambdas(lambdas: float | Sequence[float], num_layers: int) -> list[float]:
    """λ_1..λ_L from one value or L of them, checked."""
    num_layers = at_least(num_layers, 1, "num_layers")
    values = list(lambdas) if isinstance(lambdas, Sequence) else [lambdas] * num_layers
    if len(values) != num_layers:
        raise ValueError(f"lambdas must be one for each of {num_layers} layers, got {len(values)}")
    return [positive(value, "lambdas") for value in values]


def _counts(samples_per_class: int | Sequence[int], num_classes: int) -> list[int]:
    k = at_least(num_classes, 2, "num_classes")
    if isinstance(samples_per_class, Sequence):
        counts = list(samples_per_class)
    else:
        counts = [samples_per_class] * k
    if len(counts) != k:
        raise ValueError(
            f"samples_per_class must be one for each of {k} classes, got {len(counts)}"
        )
    counts = [at_least(n, 1, "samples_per_class") for n in counts]
    at_most(sum(counts), 2**53, "the number of samples")
    return counts


def _column(values: Iterable[float]) -> Float64[Tensor, "n"]:
    return torch.tensor(list(values), dtype=torch.float64, device="cpu")


def _nonnegative_frame(
    num_classes: int, dim: int, generator: torch.Generator
) -> Float64[Tensor, "K d"]:
    """K nonnegative orthonormal rows: coordinates dealt out to the classes at random."""
    order = torch.randperm(dim, generator=generator, device="cpu")
    sizes = 0.1 + torch.rand(dim, generator=generator, dtype=torch.float64, device="cpu")
    classes = torch.arange(num_classes, device="cpu")[:, None]
    frame = torch.where(order % num_classes == classes, sizes, 0.0)
    return frame / frame.norm(dim=1, keepdim=True)

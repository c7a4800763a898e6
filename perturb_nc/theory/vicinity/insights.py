"""What near collapse is seen at sight: which decay moves which metric, and what noise leaves.

All to leading order in the distance from collapse: the limits of `small_vicinity` there.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.collapse import ExactCollapse
from perturb_nc.theory.vicinity.batch import settings_of
from perturb_nc.theory.vicinity.coefficients import coefficients
from perturb_nc.validation import ArrayLike, as_matrix, at_least, nonnegative, positive

Values = Float64[Tensor, "..."]


def decay_effects(
    *, lambda_w: ArrayLike, lambda_h: ArrayLike, beta: ArrayLike, outside: float = 0.0
) -> dict[str, dict[str, Values]]:
    """Metric → parameter → d log metric / d log parameter at the fixed features near collapse.

    With s = √(λ_H/λ_W), D = β + 4λ_H(1-c0) and φ the share of tr Σ_W in the span of the means

        NC1 in λ_W:  s/(β+s) - 2λ_H(1-2c0)/D          NC2 in λ_W:  λ_H(4c0-1)/D
               λ_H:  2λ_H/D - s/(β+s)                        λ_H:  -3λ_H(1-2c0)/D
               β:    2s/(β+s)                                β:    4λ_H(1-c0)/D

    and ÑC1 as NC1 with φs/(β+s) in place of s/(β+s) and, in λ_H and β, -/+ 2(1-φ)λ_H/(β+λ_H). So
    λ_H lowers NC1 and NC2 if and only if λ_W λ_H < 1/4; λ_W raises NC1 always, and lowers NC2 if
    and only if λ_W λ_H < 1/16.

    Args:
        lambda_w, lambda_h, beta: numbers or arrays that broadcast, all > 0; NaN where c0 >= 1.
        outside: share of tr Σ_W0, of the reference features, outside the span of the class means.

    Source: limit of docs §4.7; NC2 where deviations of the class means outweigh Σ_W0.
    """
    if nonnegative(outside, "outside") > 1:
        raise ValueError(f"outside must be <= 1, a share, got {outside}")
    w, h, b = settings_of(lambda_w, lambda_h, beta)
    s, c0 = (h / w).sqrt(), (w * h).sqrt()
    c0 = torch.where(c0 < 1, c0, torch.nan)
    deformed = b + 4 * h * (1 - c0)
    inside = (1 - outside) * (b / (b + s)).square()
    share = inside / (inside + outside * (b / (b + h)).square())
    span, off = s / (b + s), 2 * (1 - share) * h / (b + h)
    grown = 2 * h / deformed  # of the means, and 1/(2c0 - 1) times that in λ_W
    waned = grown * (1 - 2 * c0)
    return {
        "nc1": {"lambda_w": span - waned, "lambda_h": grown - span, "beta": 2 * span},
        "nc1_trace": {
            "lambda_w": share * span - waned,
            "lambda_h": grown - share * span - off,
            "beta": 2 * share * span + off,
        },
        "nc2_etf": {
            "lambda_w": h * (4 * c0 - 1) / deformed,
            "lambda_h": -3 * h * (1 - 2 * c0) / deformed,
            "beta": 4 * h * (1 - c0) / deformed,
        },
    }


def stronger_decay(
    *, lambda_w: ArrayLike, lambda_h: ArrayLike, beta: ArrayLike, outside: float = 0.0
) -> dict[str, Values]:
    """Metric → a number > 0 where λ_H moves it more than λ_W does, both changed by one factor.

    It is (∂_H + ∂_W)(∂_H - ∂_W) of `decay_effects`, whose sign is that of

        NC1: -1 (always λ_W),     NC2: 2/5 - c0 (λ_W from λ_W λ_H = 4/25 on),
        ÑC1: [ζc0/(1-c0) - 2(1-φ)λ_H/(β+λ_H)] [ζ - 2φs/(β+s) - 2(1-φ)λ_H/(β+λ_H)],

    ζ = 4λ_H(1-c0)/D; arguments as there.
    """
    effects = decay_effects(lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, outside=outside)
    return {
        name: (e["lambda_h"] + e["lambda_w"]) * (e["lambda_h"] - e["lambda_w"])
        for name, e in effects.items()
    }


@dataclass(frozen=True)
class NoisyCollapse:
    """Expected metrics of the optimum for collapsed features plus noise.

    Attributes:
        nc1_trace, nc1: their expectations.
        nc2_etf: the root of the expected square.
    """

    nc1_trace: float
    nc1: float
    nc2_etf: float


def collapse_under_noise(
    collapse: ExactCollapse,
    covariance: ArrayLike,
    *,
    samples_per_class: int,
    lambda_w: float,
    lambda_h: float,
    beta: float,
) -> NoisyCollapse:
    """What (1) makes of H0 = H* + noise, every sample with its own of this covariance Ω (d×d).

    With F the frame of the collapse, t_in and t_out the traces of Ω in its span and off it, and
    t = tr(F̃ΩF̃ᵀ) for the centred frame F̃, to leading order in Ω

        E ÑC1 = (1 - 1/n) K/(K-1) (γ_in² t_in + γ_out² t_out)/ρ,   E NC1 = (1 - 1/n) γ_in² t/ρ,
        E NC2² = 4 (β/D)² (K/2 - 1/(K-1)) t / ((K-1) n ρ).

    n samples a class deform the frame by the noise of their means: NC2 falls with n, NC1 does not.

    Args:
        collapse: where the features are without noise, of the same λ_W and λ_H; c0 < 1.
        covariance: Ω, (d, d), positive semidefinite.
        samples_per_class: n >= 2.
        lambda_w, lambda_h, beta: all > 0.

    Raises:
        ValueError: arguments out of range; a collapse to zero.
    """
    k, d = collapse.means.shape
    n = at_least(samples_per_class, 2, "samples_per_class")
    omega = as_matrix(covariance, (d, d), name="covariance")
    rho = positive(collapse.rho, "rho of the collapse (0 from lambda_w * lambda_h = 1 on)")
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    w, h, b = (omega.new_tensor(positive(value, name)) for name, value in given.items())
    s = coefficients(w, h, b, k)
    inward, outward = s.gamma_in.value.item() ** 2, s.gamma_out.value.item() ** 2
    frame = collapse.means / rho**0.5
    centred = frame - frame.mean(0)
    span = (frame @ omega * frame).sum().item()
    seen = (centred @ omega * centred).sum().item()
    fresh = (1 - 1 / n) / rho
    variance = inward * span + outward * (omega.trace().item() - span)
    shape = (k / 2 - 1 / (k - 1)) / (k - 1)
    bent = 4 * s.means.stretch.value.item() ** 2 * shape * seen / (n * rho)
    return NoisyCollapse(fresh * k / (k - 1) * variance, fresh * inward * seen, bent**0.5)

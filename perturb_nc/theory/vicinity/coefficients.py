"""The scalars of docs §4.7: all that λ_W, λ_H and β do to a prediction near collapse.

The reference features give fixed matrices (see `frame`), and the predictions are sums of these:

    M = R(a I + b B + e T0 + h N) + f X,     W = (a' I + b' B + e' T0 + h' N)Rᵀ + f' Xᵀ,
    Σ_W = Γ Σ_W0 Γ,  Γ = γ_in RRᵀ + γ_out (I - RRᵀ).
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.vicinity.jet import Jet, parameters


class Mixture(NamedTuple):
    """Coefficients of I, B, T0, N in the span and of X off it."""

    identity: Jet
    stretch: Jet
    within: Jet
    imbalance: Jet
    across: Jet


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Of one setting or many.

    Attributes:
        size: √ρ, the norm of the collapsed class means.
        slope: w = √(λ_H/λ_W) √ρ, the norm of the collapsed rows of W.
        c0: √(λ_W λ_H).
        gamma_in, gamma_out: what is left of deviations within classes in the span of the class
            means, β/(β + √(λ_H/λ_W)), and off it, β/(β + λ_H).
        means, weight: as the module says.
        symmetric, rotation, off_span: inverses of ∇²g / K at collapse on symmetric and
            antisymmetric changes of W in the span, and on changes off it.
    """

    size: Jet
    slope: Jet
    c0: Jet
    gamma_in: Jet
    gamma_out: Jet
    means: Mixture
    weight: Mixture
    symmetric: Jet
    rotation: Jet
    off_span: Jet

    @property
    def attenuations(self) -> tuple[Jet, Jet, Jet]:
        """What Γ makes of the parts of Σ_W0 in the span, across its border and off it."""
        own, other = self.gamma_in, self.gamma_out
        return own * own, own * other, other * other


def coefficients(
    lambda_w: Float64[Tensor, "..."],
    lambda_h: Float64[Tensor, "..."],
    beta: Float64[Tensor, "..."],
    num_classes: int,
) -> Coefficients:
    """The scalars, with derivatives; c0 < 1 is the caller's to check.

    With s = √(λ_H/λ_W), c = λ_H + β and D = β + 4λ_H(1-c0):

        δ = [β S + (1-2c0) s (K w T - K c0 √ρ N)] / D,           S = B - √ρ I,  T = γ_in² T0
        v = -s(1-2c0) δ - s (K w T - K c0 √ρ N),                 M = R(√ρ I + δ) + D⊥
        V⊥ = -(K w γ_in/λ_W) Xᵀ,     D⊥ = (c0/c) V⊥ᵀ,            W = wRᵀ + vRᵀ + V⊥
    """
    decay, shrinkage, anchor = parameters(lambda_w, lambda_h, beta)
    s, c0 = (shrinkage / decay).sqrt(), (decay * shrinkage).sqrt()
    size = ((1.0 - c0) / s).sqrt()
    slope, c = s * size, shrinkage + anchor
    gamma_in = anchor / (anchor + s)
    tilt = s * (1.0 - 2.0 * c0)
    deformed = anchor + 4.0 * shrinkage * (1.0 - c0)
    kept = anchor / deformed
    # What deviations and unequal class sizes pull at W: the coefficients of T0 and N.
    within = num_classes * slope * gamma_in * gamma_in
    unequal = -num_classes * (c0 * size)
    means = Mixture(
        identity=size * (1.0 - kept),
        stretch=kept,
        within=tilt * within / deformed,
        imbalance=tilt * unequal / deformed,
        across=-num_classes * (c0 * slope * gamma_in / (c * decay)),
    )
    weight = Mixture(
        identity=slope + tilt * size * kept,
        stretch=-(tilt * kept),
        within=-(tilt * means.within) - s * within,
        imbalance=-(tilt * means.imbalance) - s * unequal,
        across=-num_classes * (slope * gamma_in / decay),
    )
    soft = num_classes * (s * (s + anchor))
    return Coefficients(
        size, slope, c0, gamma_in, anchor / c, means, weight,
        symmetric=soft / deformed,
        rotation=soft / anchor,
        off_span=num_classes * (c / (decay * anchor)),
    )  # fmt: skip

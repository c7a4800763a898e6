"""Confidence intervals of ratios whose standard error depends on them and is itself uncertain.

A metric θ of class means Â = A + noise has a variance V(A) that is known only as V(Â), which comes
out small together with θ̂ or by itself. By the derivatives of θ and V in Â, with the covariance of
the noise as inner product <a, b> = tr(aᵀΛbΣ_W),

    V = <∇θ, ∇θ>,   slope κ = <∇θ, ∇V>/V,   var V̂ = <∇V, ∇V>,

so that V(θ') = V + κ(θ' - θ̂) at another value θ', up to an error with variance var V̂ - κ²V. The
interval is that of a score test (Wilson 1927), {θ': (θ' - θ̂)² <= t² V(θ')}, with Student's t for
ν = 2V²/(var V̂ - κ²V) degrees of freedom (Satterthwaite 1946). Where V grows faster than θ², as when
a distance in a denominator may be 0, this is done for 1/θ, and the upper end may be infinite.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from scipy.special import stdtrit
from torch import Tensor


@dataclass(frozen=True)
class Slope:
    """How the variance of a metric θ moves with it.

    Attributes:
        rate: κ/V.
        rest: (var V̂ - κ²V)/V², two over the degrees of freedom of V̂.
    """

    rate: float
    rest: float

    @classmethod
    def of(
        cls,
        metric: Callable[[Float64[Tensor, "K d"]], Tensor],
        means: Float64[Tensor, "K d"],
        noise: Float64[Tensor, "K K"],
        within: Float64[Tensor, "d d"],
    ) -> "Slope":
        """That of a function of the class means, whose noise has covariance noise ⊗ within."""
        with torch.enable_grad():
            point = means.detach().requires_grad_()
            (pull,) = torch.autograd.grad(metric(point), point, create_graph=True)
            variance = (pull * (noise @ pull @ within)).sum()
            (turn,) = torch.autograd.grad(variance, point)
        moved = noise @ turn @ within
        own, common = (turn * moved).sum().item(), (pull.detach() * moved).sum().item()
        return cls.from_moments(variance.item(), common, own)

    @classmethod
    def from_moments(cls, variance: float, common: float, own: float) -> "Slope":
        """From V, the covariance of θ̂ and V̂, and the variance of V̂."""
        if not variance > 0:
            return cls(0.0, 0.0)
        return cls(common / variance**2, max(own - common**2 / variance, 0.0) / variance**2)

    def __add__(self, other: "Slope") -> "Slope":
        """Of V̂ with both, independent of each other."""
        return Slope(self.rate + other.rate, self.rest + other.rest)

    def quantile(self, level: float) -> float:
        """Student's, of as many degrees of freedom as V̂ has, two at least."""
        return float(stdtrit(2 / min(self.rest, 1.0) if self.rest > 0 else 1e9, (1 + level) / 2))

    def interval(
        self, value: float, variance: float, sampling_bias: float, level: float
    ) -> tuple[float, float]:
        """Bounds of θ >= 0 from θ̂, its variance and its bias."""
        t, power = self.quantile(level), self.rate * value
        if value > 0 and power > 2:
            inverse = 1 / value
            # 1/θ̂ without its own bias
            centre = inverse + sampling_bias * inverse**2 - variance * inverse**3
            spread = variance * inverse**4
            low, high = _score(centre, spread, (4 - power) * spread * value, t)
            return (1 / high if high > 0 else math.inf), (1 / low if low > 0 else math.inf)
        low, high = _score(value - sampling_bias, variance, self.rate * variance, t)
        return max(low, 0.0), max(high, 0.0)


def _score(centre: float, variance: float, slope: float, t: float) -> tuple[float, float]:
    """{θ: (θ - centre)² <= t²(variance + slope (θ - centre))}, a falling variance held."""
    half = t**2 * max(slope, 0.0) / 2
    root = (half**2 + t**2 * variance) ** 0.5
    return centre + half - root, centre + half + root

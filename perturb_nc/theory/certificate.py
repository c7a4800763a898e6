"""Global optimality of (1): (1) is not convex, but it has an exact convex lift (docs §4.2).

With E = WH - T at the optimal H for W, c = λ_H + β, the dual slack of the lift is the K×K matrix
(λ_W/K) I - EEᵀ/(cN), so that everything here is of size K and comes from class statistics.
"""

import math
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from jaxtyping import Bool, Float64
from torch import Tensor

from perturb_nc.summary import Summarised
from perturb_nc.theory.dual import DualTerms
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.validation import ArrayLike, instance

GAP_TOLERANCE = 1e-9
"""A gap this small counts as none, relative to the part of f that W can change."""


@dataclass(frozen=True, repr=False)
class Certificate(Summarised):
    """How far a weight can be from the global minimum of (1).

    Attributes:
        spectral_ratio: r = σ_max(E)² / (N c λ_W/K). A stationary point with r <= 1 is a global
            minimiser, with r < 1 the only one. In the unconstrained model (β = 0) r = 1.
        lower_bound: a certified lower bound of the minimum of f, whatever r is.
        gap: f(W) - lower_bound >= 0 up to rounding: W is within `gap` of the minimum.
        is_global: gap <= 1e-9 (f - βλ_H/(2cN) |H0|²). False means "not proved", not "not
            optimal", unless d >= rank(H0) + K, where the lift is exact and a stationary W with
            r > 1 improvable.
    """

    spectral_ratio: float
    lower_bound: float
    gap: float
    is_global: bool

    def __str__(self) -> str:
        if self.is_global:
            return f"global optimum, r = {self.spectral_ratio:.3g}"
        return f"within {self.gap:.2g} of the global optimum, r = {self.spectral_ratio:.3g}"


@singledispatch
def certify(problem: NearCollapseProblem, weight: ArrayLike) -> Certificate:
    """Certificate of a weight (K, d), stationary or not; the bound holds for any.

    The bound is the dual function

        D(R) = -<R,Y>/N - |R|²/(2N) + βλ_H/(2cN) |H0|² - ½ (β/(cN))² tr(H0Rᵀ T⁻¹ RH0ᵀ),
        T = (λ_W/K) I - RRᵀ/(cN) ≻ 0,

    at R = Σ φ_i σ_i u_i v_iᵀ, E = Σ σ_i u_i v_iᵀ: a sum over i in which each 0 <= φ_i <= 1 is
    chosen to be best. At a stationary W with r <= 1 that is R = E, and the gap is 0.

    Raises:
        ValueError: a weight that is not (K, d) or not finite.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> problem = pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        >>> found = pnc.certify(problem, pnc.minimize(problem).weight)
        >>> found.is_global, found.spectral_ratio < 1
        (True, True)
        >>> pnc.certify(problem, torch.zeros(3, 5)).is_global
        False

    See Also:
        minimize: whose solutions carry a certificate.

    Source: docs §4.2.
    """
    instance(problem, NearCollapseProblem, "problem", "make one from statistics")
    w = problem.checked_weight(weight)
    found = certify_point(problem.at(w))
    if not math.isfinite(found.gap):
        raise ValueError(
            f"weight is too large for float64, |W| = {w.norm().item():.1e}; rescale it"
        )
    return found


def certify_point(point: ReducedPoint) -> Certificate:
    """`certify` for a point already evaluated."""
    found = certify_batch(point)
    return Certificate(
        found.spectral_ratio.item(),
        found.lower_bound.item(),
        found.gap.item(),
        bool(found.is_global),
    )


@dataclass(frozen=True, eq=False)
class CertificateBatch:
    """The fields of Certificate, for every member of a batch."""

    spectral_ratio: Float64[Tensor, "..."]
    lower_bound: Float64[Tensor, "..."]
    gap: Float64[Tensor, "..."]
    is_global: Bool[Tensor, "..."]


@singledispatch
def certify_batch(point: Any) -> CertificateBatch:
    """`certify_point` with leading batch dimensions; other models' points register their own."""
    limit = (point.c * point.lambda_w / len(point.reference.priors))[..., 0]
    dual = DualTerms(point)
    # Without the constant βλ_H/(2cN) |H0|², which f and D share.
    gap = point.excess - dual(dual.best_shares(limit)).sum(-1)
    return CertificateBatch(
        spectral_ratio=dual.squares.amax(-1) / limit[..., 0],
        lower_bound=point.objective - gap,
        gap=gap,
        is_global=gap <= GAP_TOLERANCE * point.excess,
    )

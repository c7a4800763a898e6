"""Global optimality of (1): (1) is not convex, but it has an exact convex lift (DESIGN §4.2).

With E = WH - T at the optimal H for W, c = λ_H + β, the dual slack of the lift is the K×K matrix
(λ_W/K) I - EEᵀ/(cN), so that everything here is of size K and comes from class statistics.
"""

from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar

from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.validation import ArrayLike

GAP_TOLERANCE = 1e-9
"""A gap this small, relative to the objective, counts as none."""


@dataclass(frozen=True)
class Certificate:
    """How far a weight can be from the global minimum of (1).

    Attributes:
        spectral_ratio: r = σ_max(E)² / (N c λ_W/K). A stationary point with r <= 1 is a global
            minimiser, with r < 1 the only one. In the unconstrained model (β = 0) r = 1.
        lower_bound: a certified lower bound of the minimum of f, whatever r is.
        gap: f(W) - lower_bound >= 0 up to rounding: W is within `gap` of the minimum.
        is_global: gap <= 1e-9 f. False means "not proved", not "not optimal", unless
            d >= rank(H0) + K, where the lift is exact and a stationary W with r > 1 improvable.
    """

    spectral_ratio: float
    lower_bound: float
    gap: float
    is_global: bool


def certify(problem: NearCollapseProblem, weight: ArrayLike) -> Certificate:
    """Certificate of a weight (K, d), stationary or not; the bound holds for any.

    The bound is the dual function at R = E with its singular values clipped at γ,

        D(R) = -<R,Y>/N - |R|²/(2N) + βλ_H/(2cN) |H0|² - ½ (β/(cN))² tr(H0Rᵀ T⁻¹ RH0ᵀ),
        T = (λ_W/K) I - RRᵀ/(cN) ≻ 0,

    with R = E where r < 1 (at the optimum the gap is then 0), otherwise maximised over γ.

    Raises:
        ValueError: a weight that is not (K, d) or not finite.

    Source: DESIGN §4.2.
    """
    point = problem.at(problem.checked_weight(weight))
    return certify_point(point)


def certify_point(point: ReducedPoint) -> Certificate:
    """`certify` for a point already evaluated."""
    limit = (point.c * point.lambda_w / len(point.weight)).item()
    dual = _ClippedDual(point)
    largest = dual.values.max().item()
    ratio = largest / limit
    # At γ² = limit T is singular; the relative 1e-12 keeps D finite where r = 1 to rounding.
    ceiling = limit * (1 - 1e-12)
    bound = dual(min(largest, ceiling))
    if largest > ceiling:
        best = minimize_scalar(
            lambda square: -dual(square), bounds=(0.0, ceiling), method="bounded",
            options={"xatol": 1e-10 * ceiling},
        )  # fmt: skip
        bound = max(bound, -float(best.fun), dual(0.0))
    objective = point.objective.item()
    gap = objective - bound
    return Certificate(ratio, bound, gap, gap <= GAP_TOLERANCE * objective)


class _ClippedDual:
    """D(R) as a function of γ² for R = E with singular values clipped at γ (units of E/√N)."""

    def __init__(self, point: ReducedPoint) -> None:
        reference, priors = point.reference, point.reference.priors
        values, vectors = torch.linalg.eigh(point.residual_moment)
        self.values = values.clamp(min=0.0)  # a Gram matrix: below zero is rounding
        weighted = priors[:, None] * point.residuals
        # In the eigenbasis u_i of EEᵀ/N: <u_iu_iᵀE, Y>/N and |u_iᵀEH0ᵀ/N|².
        self._fit = (vectors * (weighted.mT @ vectors)).sum(0)
        within = point.beta * (point.gain @ (point.weight @ reference.within))
        cross = vectors.mT @ (weighted.mT @ reference.means + within)
        self._pull = (point.beta / point.c) ** 2 * cross.square().sum(1)
        self._slack = point.lambda_w / len(point.weight)
        self._c = point.c
        size = priors @ reference.means.square().sum(1) + reference.within.trace()
        self._anchor = point.beta * point.lambda_h / (2 * point.c) * size

    def __call__(self, square: float) -> float:
        clipped = self.values.clamp(max=square)
        share = torch.where(self.values > square, clipped / self.values, 1.0)
        quadratic = share * self._pull / (self._slack - clipped / self._c)
        terms = share.sqrt() * self._fit + 0.5 * clipped + 0.5 * quadratic
        return (self._anchor - terms.sum()).item()

"""Global optimality with cross-entropy: the convex lift of (1), with the conjugate of the loss.

For any convex loss of Z = WH + b1ᵀ the lift of docs §4.2 is exact in the same way, with the
gradient Q of the loss in Z in place of the errors E: a stationary point is a global minimiser if

    r = σ_max(Q)² / (N c λ_W/K) ≤ 1.

For any R (K×N) such that every p_i = t_i + r_i/ω_i is a distribution (and R1 = 0 if b is free)

    D(R) = -(1/N) Σ ω_i <p_i, log p_i> + βλ_H/(2cN) |H0|² - ½ (β/(cN))² tr(H0Rᵀ T⁻¹ RH0ᵀ)
           - |R1/N|²/(2λ_b),                T = (λ_W/K) I - RRᵀ/(cN) ≻ 0,

bounds f from below: the squared loss has -<R, Y>/N - |R|²/(2N) for the first sum.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.certificate import (
    GAP_TOLERANCE,
    Certificate,
    CertificateBatch,
    certify,
    certify_batch,
)
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.validation import ArrayLike

_GOLDEN_STEPS = 30


@certify.register(CrossEntropyProblem)
def certify_cross_entropy(  # type: ignore[misc]  # a sibling, not a subclass
    problem: CrossEntropyProblem, weight: ArrayLike
) -> Certificate:
    """`certify` with cross-entropy: the bound is D(φQ) with the best 0 <= φ <= 1.

    φQ is feasible, as t + φ(p - t) is a distribution. At a stationary W with r <= 1 it is Q that
    attains the maximum, and the gap is 0.
    """
    point = problem.at(problem.checked_weight(weight))
    return certificate_of(point, problem.anchor_cost)


def certificate_of(point: CrossEntropyPoint, anchor_cost: float) -> Certificate:
    """The certificate of a point already evaluated."""
    found = _certify_point(point)
    return Certificate(
        spectral_ratio=found.spectral_ratio.item(),
        lower_bound=found.lower_bound.item() + anchor_cost,
        gap=found.gap.item(),
        is_global=bool(found.is_global),
    )


@certify_batch.register(CrossEntropyPoint)
def _certify_point(point: CrossEntropyPoint) -> CertificateBatch:
    """As `certify_batch`; the lower bound is of `excess`."""
    dual, excess = _Dual(point), point.excess.item()
    bound = dual.best(excess - 0.1 * GAP_TOLERANCE * excess)
    gap = point.excess - bound
    return CertificateBatch(
        spectral_ratio=dual.largest[None] / dual.limit,
        lower_bound=bound[None],
        gap=gap,
        is_global=gap <= GAP_TOLERANCE * point.excess,
    )


class _Dual:
    """D(φR) - βλ_H/(2cN) |H0|² as a function of φ, for the R nearest to Q that is feasible."""

    def __init__(self, point: CrossEntropyPoint) -> None:
        s, state = point.samples, point.state
        self._targets, self._excess = state.targets, state.outputs - state.targets.rows
        if s.has_bias and s.penalties[-1] == 0:
            self._balance()
        residuals = self._targets.weights * self._excess
        n = len(residuals)
        self._roots, vectors = torch.linalg.eigh(residuals.mT @ residuals / n)
        overlap = vectors.mT @ (residuals.mT @ s.features / n)
        self._pull = s.gamma**2 * overlap.square().sum(1)
        self._drift = torch.zeros_like(self._roots[0])
        if s.has_bias and s.penalties[-1] > 0:
            self._drift = residuals.mean(0).square().sum() / s.penalties[-1]
        self._slack, self._kappa = s.penalties[0], s.kappa
        self.largest = self._roots[-1].clamp(min=0.0)
        self.limit = self._slack / s.kappa

    def _balance(self) -> None:
        """Mix in p_i = p̄, the same for all, to bring Σ ω(p - t) from rounding to 0."""
        weights, targets = self._targets.weights, self._targets.rows
        mean = (weights * targets).sum(0) / weights.sum()
        missing = (weights * self._excess).sum(0) / weights.sum()
        share = (2 * (missing / mean).abs().amax()).clamp(max=1.0)
        if share > 0:
            common = mean - (1 - share) / share * missing
            self._excess = self._excess + share * (common - targets - self._excess)

    def __call__(self, share: Float64[Tensor, ""]) -> Float64[Tensor, ""]:
        outputs = (self._targets.rows + share * self._excess).clamp(min=0.0)
        entropy = self._targets.weights[:, 0] * self._targets.loss.conjugate(outputs)
        kept = share.square()
        slack = self._slack - self._kappa * kept * self._roots
        quadratic = kept * (self._pull / slack).sum() + kept * self._drift
        return -entropy.mean() - 0.5 * quadratic

    def best(self, enough: float) -> Float64[Tensor, ""]:
        """The largest D(φR), concave in φ, unless the one at the largest φ is `enough`."""
        # The relative 1e-12 keeps T definite where r = 1 to rounding.
        ceiling = (self.limit * (1 - 1e-12) / self.largest).sqrt().clamp(max=1.0)
        best = self(ceiling)
        if best >= enough:
            return best
        ratio = (math.sqrt(5) - 1) / 2
        low, high = torch.zeros_like(ceiling), ceiling
        a, b = high - ratio * high, ratio * high
        left, right = self(a), self(b)
        for _ in range(_GOLDEN_STEPS):
            if left < right:
                low, a, left = a, b, right
                b = low + ratio * (high - low)
                right = self(b)
            else:
                high, b, right = b, a, left
                a = high - ratio * (high - low)
                left = self(a)
        return torch.stack([best, left, right]).max()

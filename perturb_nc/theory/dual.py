"""The dual function of the lift of (1), at the best clip levels of the residuals (docs §4.2)."""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.theory.reduced import ReducedPoint


class DualTerms:
    """D(R) - βλ_H/(2cN) |H0|² term by term, as a function of the shares φ_i of σ_i."""

    def __init__(self, point: ReducedPoint) -> None:
        self.squares, vectors = point.residual_spectrum
        priors = point.reference.priors[:, None]
        # In the eigenbasis u_i of EEᵀ/N: <u_iu_iᵀE, Y>/N and |u_iᵀEH0ᵀ/N|².
        self._fit = (vectors * ((priors * point.residuals).mT @ vectors)).sum(-2)
        cross = vectors.mT @ point.residual_overlap
        self._pull = (point.beta / point.c)[..., 0] ** 2 * cross.square().sum(-1)
        self._slack = point.lambda_w[..., 0] / len(point.reference.priors)
        self._c = point.c[..., 0]

    def __call__(self, shares: Float64[Tensor, "... K"]) -> Float64[Tensor, "... K"]:
        kept = shares.square()
        slack = self._slack - kept * self.squares / self._c
        quadratic = kept * self.squares + kept * self._pull / slack
        return -shares * self._fit - 0.5 * quadratic

    def best_shares(self, limit: Float64[Tensor, "... 1"]) -> Float64[Tensor, "... K"]:
        """Each φ_i in [0, 1] with φ_i² σ_i² < limit at which its (concave) term is largest."""
        # The relative 1e-12 keeps T definite where r = 1 to rounding.
        ceiling = (limit * (1 - 1e-12) / self.squares).sqrt().clamp(max=1.0)
        low, high, shares, close = torch.zeros_like(ceiling), ceiling, ceiling, 1e-12 * ceiling
        # With l = λ_W/K, q = σ²/c and e = -<u uᵀE, Y>/N the term is largest where
        # (l - qφ²)²(e - σ²φ) = l p φ, p the pull: both sides are monotone for l >= qφ².
        slack, gain = self._slack, self.squares / self._c
        fit, pull = -self._fit, slack * self._pull
        for _ in range(100):
            room, rest = slack - gain * shares.square(), fit - self.squares * shares
            excess = room.square() * rest - pull * shares
            low, high = torch.where(excess > 0, shares, low), torch.where(excess > 0, high, shares)
            slope = -4 * gain * shares * room * rest - self.squares * room.square() - pull
            step = -excess / slope
            newton, known = shares + step, step.abs() <= close
            # A step as small as rounding ends it, on whichever side of the bracket it falls.
            inside = known | ((newton > low) & (newton < high))
            following = torch.where(inside, newton.minimum(ceiling), (low + high) / 2)
            moved, shares = (following - shares).abs(), following
            if (moved <= close).all():
                break
        return shares

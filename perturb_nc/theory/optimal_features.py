"""The features H (and the bias b) of problem (1) at their optimum for a weight W.

With c = λ_H + β, P = WᵀW + cI, targets T and reference features H0 (columns),

    H = P⁻¹(WᵀT + βH0),      T = Y,

so that the class means of H and its within-class covariance depend on H0 through its class
statistics alone (docs §4.1). P is never formed:
with G = (WWᵀ + cI_K)⁻¹ and F = GW (K×d), P⁻¹Wᵀ = Fᵀ and P⁻¹ = (I - WᵀF)/c. Along W, where P⁻¹ is
small, that difference cancels: it is followed by one correction towards WP⁻¹ = F, which is 0 in
exact arithmetic and divides the error along a singular vector of W by 1 + σ(W)²/c.

With a bias the mean of the samples decouples: it is (β/c)h̄0 at the optimum, b = π - (β/c)Wh̄0, and
what is left is the problem without bias for the centred H0 - h̄01ᵀ and T = Y - π1ᵀ. That is how it
is computed, so that a common offset of the features costs no accuracy.

Matrices of means and perturbations are stored as rows, (K, d), as everywhere in the interface.
Weight and hyper-parameters may have leading batch dimensions, and then everything has them.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.moments import Scalar, trace
from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.arrays import Factor, Rows, Square, cholesky, total

Point = TypeVar("Point", bound="OptimalFeatures")


@dataclass(frozen=True, eq=False, repr=False)
class OptimalFeatures(Summarised):
    """H and b at their optimum for `weight`; no checks, built by the problem.

    hyperparameters holds (λ_W, λ_H, β). The last `idle` feature directions are for features alone:
    weights are to stay 0 there.
    What is not finite (a weight too large for float64) is NaN.
    """

    reference: ClassStatistics
    weight: Rows
    hyperparameters: Float64[Tensor, "... 3"]
    has_bias: bool
    idle: int = 0

    def members(self: Point, rows: int | slice | Tensor) -> Point:
        """Some of the points of a batch, with what is known of them."""
        few, names = replace(self), vars(self).keys() - {"_mean", "_anchors", "targets"}
        own = {n: vars(self)[n] for n in names if isinstance(vars(self)[n], Tensor)}
        vars(few).update({name: value[rows] for name, value in own.items()})
        return few

    @property
    def layer(self) -> Rows:
        """W."""
        return self.weight

    @property
    def scale(self) -> str:
        """Sizes to name where float64 does not suffice."""
        size = self.reference.means.abs().max().item()
        return f"class means of size {size:.1e}, lambda_w = {self.lambda_w.min().item():g}"

    @cached_property
    def lambda_w(self) -> Factor:
        """λ_W."""
        return self.hyperparameters[..., 0, None, None]

    @cached_property
    def lambda_h(self) -> Factor:
        """λ_H."""
        return self.hyperparameters[..., 1, None, None]

    @cached_property
    def beta(self) -> Factor:
        """β."""
        return self.hyperparameters[..., 2, None, None]

    @cached_property
    def c(self) -> Factor:
        """c = λ_H + β."""
        return self.lambda_h + self.beta

    @cached_property
    def gain(self) -> Square:
        """G = (WWᵀ + cI)⁻¹."""
        gram = self.weight @ self.weight.mT
        identity = torch.eye(len(self.reference.priors), dtype=gram.dtype, device=gram.device)
        root = cholesky(gram + self.c * identity)
        inverse_root = torch.linalg.solve_triangular(root, identity.expand_as(root), upper=False)
        return inverse_root.mT @ inverse_root

    @cached_property
    def lift(self) -> Rows:
        """F = GW, that is P⁻¹Wᵀ transposed."""
        return self.gain @ self.weight

    def solve(self, rows: Float64[Tensor, "... n d"]) -> Float64[Tensor, "... n d"]:
        """Rows times P⁻¹."""
        read = rows @ self.weight.mT
        found = (rows - read @ self.lift) / self.c
        return found + (read @ self.gain - found @ self.weight.mT) @ self.lift

    @cached_property
    def _mean(self) -> Float64[Tensor, "1 d"]:
        """h̄0 with bias, 0 without: what the reference features are centred on."""
        mean = self.reference.priors[None] @ self.reference.means
        return mean if self.has_bias else torch.zeros_like(mean)

    @cached_property
    def _anchors(self) -> Rows:
        return self.reference.means - self._mean

    @property
    def drift(self) -> Float64[Tensor, "... 1 d"]:
        """(β/c)h̄0, the mean of H in the model with bias; 0 in the one without."""
        return (self.beta / self.c) * self._mean

    @cached_property
    def bias(self) -> Float64[Tensor, "... K"]:
        """b = π - (β/c) W h̄0; 0 in the model without bias."""
        priors = self.reference.priors if self.has_bias else torch.zeros_like(self.reference.priors)
        return priors - (self.weight @ self.drift.mT)[..., 0]

    @cached_property
    def targets(self) -> Float64[Tensor, "K K"]:
        """Row k is e_k - π with bias, e_k without."""
        identity = torch.diag(self.weight.new_ones(len(self.reference.priors)))
        return identity - self.reference.priors if self.has_bias else identity

    @cached_property
    def _pull(self) -> Square:
        return self.targets - (self.beta / self.c) * (self._anchors @ self.weight.mT)

    def features(
        self, reference: Float64[Tensor, "n d"], labels: Int64[Tensor, "n"]
    ) -> Float64[Tensor, "n d"]:
        """Optimal features of samples: P⁻¹(Wᵀt + β(h0 - h̄0)) + (β/c)h̄0, h̄0 only with bias."""
        own = self.targets[labels] @ self.lift + self.beta * self.solve(reference - self._mean)
        return own + self.drift

    @cached_property
    def own_means(self) -> Rows:
        """Class means of H, less its mean in the model with bias."""
        return (self.beta / self.c) * self._anchors + self._pull @ self.lift

    @property
    def means(self) -> Rows:
        """Class means of H."""
        return self.own_means + self.drift

    @cached_property
    def residuals(self) -> Square:
        """Row k is the class mean of E = WH + b1ᵀ - Y, which is -c G (t_k - (β/c) W μ0_k)."""
        return -self.c * (self._pull @ self.gain)

    def through_reference(self, rows: Float64[Tensor, "... n d"]) -> Float64[Tensor, "... n d"]:
        """Rows times Σ_W0."""
        return rows @ self.reference.within

    def through_within(self, rows: Float64[Tensor, "... n d"]) -> Float64[Tensor, "... n d"]:
        """Rows times Σ_W."""
        return self.beta**2 * self.solve(self.through_reference(self.solve(rows)))

    @cached_property
    def _reference_rows(self) -> Rows:
        return self.through_reference(self.weight)

    @cached_property
    def _reference_gram(self) -> Square:
        """WΣ_W0Wᵀ."""
        return self._reference_rows @ self.weight.mT

    @cached_property
    def weight_within(self) -> Rows:
        """WΣ_W = β²F Σ_W0 P⁻¹."""
        return self.beta**2 * (self.gain @ self.solve(self._reference_rows))

    @cached_property
    def within(self) -> Float64[Tensor, "... d d"]:
        """Σ_W = β²P⁻¹Σ_W0P⁻¹, as (β/c)²(Σ_W0 - FᵀZ - ZᵀF) corrected on both sides towards WΣ_W."""
        trimmed = self._reference_rows - 0.5 * (self._reference_gram @ self.lift)
        rough = (self.beta / self.c) ** 2 * self._shifted(self.reference.within, -trimmed)
        missing = self.weight_within - self.weight @ rough
        return self._shifted(rough, missing - 0.5 * (missing @ self.weight.mT) @ self.lift)

    def _shifted(
        self, matrix: Float64[Tensor, "... d d"], rows: Rows
    ) -> Float64[Tensor, "... d d"]:
        """The matrix and FᵀR + RᵀF, exactly symmetric."""
        half = 0.5 * matrix + self.lift.mT @ rows
        return half + half.mT

    @cached_property
    def within_trace(self) -> Scalar:
        """tr Σ_W."""
        return trace(self.within)

    @cached_property
    def shrunk_trace(self) -> Scalar:
        """tr(Σ_WP⁻¹)."""
        return (trace(self.within) - total(self.lift * self.weight_within)) / self.c[..., 0, 0]

    @cached_property
    def residual_moment(self) -> Square:
        """EEᵀ/N, which the certificate of global optimality is about."""
        means = self.residuals.mT @ (self.reference.priors[:, None] * self.residuals)
        gram = self.beta**2 * (self.gain @ self._reference_gram @ self.gain)
        return means + 0.5 * (gram + gram.mT)

    @cached_property
    def residual_spectrum(self) -> tuple[Float64[Tensor, "... K"], Square]:
        """Eigenvalues of EEᵀ/N, increasing, and its eigenvectors; NaN where it is not finite."""
        moment = self.residual_moment
        defined = moment.isfinite().all(-1).all(-1)[..., None]  # eigh raises for others
        squares, vectors = torch.linalg.eigh(torch.where(defined[..., None], moment, 0.0))
        # Of a Gram matrix: below zero is rounding.
        return torch.where(defined, squares.clamp(min=0.0), torch.nan), vectors

    @cached_property
    def residual_overlap(self) -> Rows:
        """EH0ᵀ/N."""
        within = self.beta * (self.gain @ self._reference_rows)
        return self.residuals.mT @ (self.reference.priors[:, None] * self._anchors) + within

    @cached_property
    def anchor_cost(self) -> Scalar:
        """βλ_H/(2c) |H0|²/N, the part of f that no W can change."""
        size = self.reference.priors @ self.reference.means.square().sum(1)
        size = size + self.reference.within.trace()
        return (self.beta * self.lambda_h / (2 * self.c))[..., 0, 0] * size

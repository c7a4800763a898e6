"""Problem (1) as a function of the weight alone: g(W) = min f over H and b, and its derivatives.

Everything in them comes from class statistics (docs §4.1), in the notation of
`perturb_nc.theory.optimal_features`.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.moments import Scalar, trace
from perturb_nc.theory.arrays import Factor, Mask, Rows, cholesky, relative, together, total
from perturb_nc.theory.optimal_features import OptimalFeatures


@dataclass(frozen=True, eq=False, repr=False)
class ReducedPoint(OptimalFeatures):
    """g at `weight`: value, gradient and products with the Hessian."""

    @cached_property
    def excess(self) -> Scalar:
        """f - anchor_cost = ½ (|E|²/N + λ_W/K |W|² + c |H - (β/c)H0|²/N).

        Solvers and certificates work with this: no term is negative, so nothing cancels, and no
        constant swamps it.
        """
        priors = self.reference.priors[:, None]
        fit = trace(self.residual_moment)
        between = total(priors * (self._pull @ self.lift).square())
        within = total(self.lift * (self._reference_gram @ self.lift))
        c, beta = self.c[..., 0, 0], self.beta[..., 0, 0]
        penalty = self.ridge[..., 0, 0] * total(self.weight.square())
        return 0.5 * (fit + penalty + c * between + beta**2 / c * within)

    @property
    def objective(self) -> Scalar:
        """f of (1)."""
        return self.excess + self.anchor_cost

    @cached_property
    def _weighted_means(self) -> Rows:
        return self.reference.priors[:, None] * self.own_means

    @cached_property
    def overlap(self) -> Rows:
        """X = EHᵀ/N."""
        return self.residuals.mT @ self._weighted_means + self.weight_within

    @cached_property
    def gradient(self) -> Rows:
        """∇g = EHᵀ/N + (λ_W/K)W."""
        return self.overlap + self._decay

    @cached_property
    def gradient_bound(self) -> Scalar:
        """|E||H|/N + (λ_W/K)|W|, which bounds ‖∇g‖_F."""
        # |(β/c)H0|² within classes, less what W takes off: no Σ_W at every step of a line search.
        taken = total(self.lift * (2 * self._reference_rows - self._reference_gram @ self.lift))
        left = (self.reference.within.trace() - taken).clamp(min=0.0)  # below 0 is rounding
        size = total(self._weighted_means * self.own_means)
        size = size + (self.beta / self.c)[..., 0, 0] ** 2 * left
        fit = trace(self.residual_moment)
        return (fit * size).sqrt() + total(self._decay.square()).sqrt()

    @cached_property
    def gradient_norm(self) -> Scalar:
        """‖∇g‖_F relative to its bound; 0 when both vanish."""
        return relative(self.gradient, self.gradient_bound)

    @cached_property
    def ridge(self) -> Factor:
        """λ_W/K."""
        return self.lambda_w / len(self.reference.priors)

    @cached_property
    def _decay(self) -> Rows:
        return self.ridge * self.weight

    @cached_property
    def moment(self) -> Float64[Tensor, "... d d"]:
        """S = HHᵀ/N, centred with bias."""
        return self.within + self._weighted_means.mT @ self.own_means

    @property
    def moment_trace(self) -> Scalar:
        """tr S."""
        return self.within_trace + total(self._weighted_means * self.own_means)

    @property
    def least_spread(self) -> Factor:
        """A lower bound of the eigenvalues of S where weights may reach; 0 says nothing."""
        return torch.zeros_like(self.ridge)

    def through_moment(self, rows: Rows) -> Rows:
        """Rows times S."""
        return together(lambda r: r @ self.moment, rows, self.moment)

    @property
    def usable(self) -> Mask:
        """Where S + (λ_W/K)I is definite in float64."""
        return self.stiffness.isfinite().all(-1).all(-1)

    @cached_property
    def stiffness(self) -> Float64[Tensor, "... d d"]:
        """Cholesky factor of S + (λ_W/K)I, the Hessian at fixed H."""
        matrix = self.moment.clone()
        matrix.diagonal(dim1=-2, dim2=-1).add_(self.ridge[..., 0])
        return cholesky(matrix)

    def precondition(self, rows: Rows) -> Rows:
        """V(S + (λ_W/K)I)⁻¹."""
        return together(
            lambda v: torch.cholesky_solve(v.mT, self.stiffness).mT, rows, self.stiffness
        )

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """∇²g[V] = cGVS - (EEᵀ/N)VP⁻¹ + (λ_W/K)V - GWVᵀX - XVᵀF, exact.

        docs §4.1 with P⁻¹ written out: one product with S = HHᵀ/N and K×d work.
        """
        v, c = direction, self.c
        read = v @ self.weight.mT
        pulled = self.residual_moment @ v
        at_gain = c * self.through_moment(v) - read.mT @ self.overlap
        at_lift = self.overlap @ v.mT - self.residual_moment @ (read / c)
        return self.gain @ at_gain - at_lift @ self.lift - pulled / c + self.ridge * v

    def anchor_overlap(self, rows: Rows, *, transposed: bool) -> Rows:
        """Rows times A = HH0ᵀ/N (or Aᵀ), within and between classes, both centred with bias."""
        if transposed:
            between = (rows @ self._anchors.mT) @ self._weighted_means
            return between + self.beta * self.solve(self.through_reference(rows))
        between = (rows @ self._weighted_means.mT) @ self._anchors
        return between + self.beta * self.through_reference(self.solve(rows))

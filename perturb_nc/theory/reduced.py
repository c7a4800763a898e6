"""Problem (1) at a weight W with the features H (and the bias b) at their optimum.

With c = λ_H + β, P = WᵀW + cI, targets T = Y - b1ᵀ and reference features H0 (columns),

    H = P⁻¹(WᵀT + βH0),   b = π - (β/c) W h̄0,

so that the class means of H, its within-class covariance, the objective and its first two
derivatives in W depend on H0 through its class statistics alone (DESIGN §4.1). P is never formed:
with G = (WWᵀ + cI_K)⁻¹ and F = GW (K×d), P⁻¹Wᵀ = Fᵀ and P⁻¹ = (I - WᵀF)/c.

Matrices of means and perturbations are stored as rows, (K, d), as everywhere in the interface.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics

Scalar = Float64[Tensor, ""]
Rows = Float64[Tensor, "K d"]
Square = Float64[Tensor, "K K"]


@dataclass(frozen=True, eq=False)
class ReducedPoint:
    """Problem (1) at `weight`, everything else at its optimum; no checks, built by the problem.

    hyperparameters holds (λ_W, λ_H, β), a tensor so that the point can be differentiated in them.
    """

    reference: ClassStatistics
    weight: Rows
    hyperparameters: Float64[Tensor, "3"]
    has_bias: bool

    @property
    def lambda_w(self) -> Scalar:
        """λ_W."""
        return self.hyperparameters[0]

    @property
    def lambda_h(self) -> Scalar:
        """λ_H."""
        return self.hyperparameters[1]

    @property
    def beta(self) -> Scalar:
        """β."""
        return self.hyperparameters[2]

    @property
    def c(self) -> Scalar:
        """c = λ_H + β."""
        return self.lambda_h + self.beta

    @cached_property
    def gain(self) -> Square:
        """G = (WWᵀ + cI)⁻¹."""
        k = self.weight.shape[0]
        gram = self.weight @ self.weight.mT
        identity = torch.eye(k, dtype=gram.dtype, device=gram.device)
        # Not cholesky_inverse, whose forward-mode derivative is wrong in torch (issue 196682).
        root = torch.linalg.cholesky(gram + self.c * identity)
        inverse_root = torch.linalg.solve_triangular(root, identity, upper=False)
        return inverse_root.mT @ inverse_root

    @cached_property
    def lift(self) -> Rows:
        """F = GW, that is P⁻¹Wᵀ transposed."""
        return self.gain @ self.weight

    def solve(self, rows: Float64[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
        """Rows times P⁻¹."""
        return (rows - (rows @ self.weight.mT) @ self.lift) / self.c

    @cached_property
    def bias(self) -> Float64[Tensor, "K"]:
        """b = π - (β/c) W h̄0; zero in the model without bias."""
        priors = self.reference.priors
        if not self.has_bias:
            return torch.zeros_like(priors)
        mean = priors @ self.reference.means
        return priors - (self.beta / self.c) * (self.weight @ mean)

    @cached_property
    def targets(self) -> Square:
        """Row k: e_k - b."""
        return torch.eye(len(self.bias), dtype=torch.float64, device=self.bias.device) - self.bias

    @cached_property
    def _pull(self) -> Square:
        return self.targets - (self.beta / self.c) * (self.reference.means @ self.weight.mT)

    def features(
        self, reference: Float64[Tensor, "n d"], targets: Float64[Tensor, "n K"]
    ) -> Float64[Tensor, "n d"]:
        """Rows P⁻¹(Wᵀt + βh0)."""
        return targets @ self.lift + self.beta * self.solve(reference)

    @cached_property
    def means(self) -> Rows:
        """Class means of H."""
        return (self.beta / self.c) * self.reference.means + self._pull @ self.lift

    @cached_property
    def residuals(self) -> Square:
        """Row k: the class mean of WH - T, which is -c G (t_k - (β/c) W μ0_k)."""
        return -self.c * (self._pull @ self.gain)

    @cached_property
    def _reference_rows(self) -> Rows:
        return self.weight @ self.reference.within

    @cached_property
    def _reference_gram(self) -> Square:
        """WΣ_W0Wᵀ."""
        return self._reference_rows @ self.weight.mT

    @cached_property
    def _trimmed(self) -> Rows:
        """Z = WΣ_W0 - ½WΣ_W0WᵀF, for which P⁻¹Σ_W0P⁻¹ = (Σ_W0 - FᵀZ - ZᵀF)/c²."""
        return self._reference_rows - 0.5 * (self._reference_gram @ self.lift)

    @cached_property
    def weight_within(self) -> Rows:
        """WΣ_W = β²/c · F(Σ_W0 - Σ_W0WᵀF)."""
        filtered = self._reference_rows - self._reference_gram @ self.lift
        return (self.beta**2 / self.c) * (self.gain @ filtered)

    @cached_property
    def within(self) -> Float64[Tensor, "d d"]:
        """Σ_W = β²P⁻¹Σ_W0P⁻¹."""
        half = torch.addmm(0.5 * self.reference.within, self.lift.mT, self._trimmed, alpha=-1.0)
        return (self.beta / self.c) ** 2 * (half + half.mT)

    @cached_property
    def within_trace(self) -> Scalar:
        """tr Σ_W without forming Σ_W."""
        shrunk = self.reference.within.trace() - 2 * (self.lift * self._trimmed).sum()
        return (self.beta / self.c) ** 2 * shrunk

    @cached_property
    def residual_moment(self) -> Square:
        """EEᵀ/N for E = WH - T: what the certificate of global optimality is about."""
        means = self.residuals.mT @ (self.reference.priors[:, None] * self.residuals)
        gram = self.beta**2 * (self.gain @ self._reference_gram @ self.gain)
        return means + 0.5 * (gram + gram.mT)

    @cached_property
    def objective(self) -> Scalar:
        """f of (1): a sum of terms none of which is negative, so nothing cancels."""
        priors, k = self.reference.priors, self.weight.shape[0]
        fit = self.residual_moment.trace()
        size = priors @ self.means.square().sum(1) + self.within_trace
        shift = priors @ (self.means - self.reference.means).square().sum(1)
        # H - H0 within classes is -P⁻¹(WᵀW + λ_H) times the deviation, P⁻¹WᵀW = FᵀW.
        lift, gram = self.lift, self._reference_gram
        moved = (
            self.lambda_h**2 * self.reference.within.trace()
            + 2 * self.lambda_h * self.beta * (lift * self._reference_rows).sum()
            + self.beta**2 * (lift * (gram @ lift)).sum()
        ) / self.c**2
        penalty = self.lambda_w / k * self.weight.square().sum()
        return 0.5 * (fit + penalty + self.lambda_h * size + self.beta * (shift + moved))

    @cached_property
    def gradient(self) -> Rows:
        """∇g = (WH - T)Hᵀ/N + (λ_W/K)W."""
        pulled = self.reference.priors[:, None] * self.means
        inertia = self.weight_within + (self.weight @ self.means.mT) @ pulled
        return inertia - self.targets.mT @ pulled + self._decay

    @property
    def gradient_norm(self) -> float:
        """‖∇g‖_F relative to its bound |E||H|/N + (λ_W/K)|W|; 0 when both vanish."""
        size = self.reference.priors @ self.means.square().sum(1) + self.within_trace
        scale = (self.residual_moment.trace() * size).sqrt() + self._decay.norm()
        return (self.gradient.norm() / scale).item() if scale > 0 else 0.0

    @property
    def _decay(self) -> Rows:
        return self.lambda_w / self.weight.shape[0] * self.weight

    @cached_property
    def _stiffness(self) -> Float64[Tensor, "d d"]:
        """Cholesky factor of S_H + (λ_W/K)I, the Hessian at fixed H."""
        weighted = self.reference.priors[:, None] * self.means
        moment = torch.addmm(self.within, weighted.mT, self.means)
        moment.diagonal().add_(self.lambda_w / self.weight.shape[0])
        return torch.linalg.cholesky(moment)

    def precondition(self, rows: Rows) -> Rows:
        """V(S_H + (λ_W/K)I)⁻¹."""
        return torch.cholesky_solve(rows.mT, self._stiffness).mT

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """∇²g[V], exact: one product with Σ_W and K×d work (DESIGN §4.1)."""
        v, w, means = direction, self.weight, self.means
        bias_change = torch.zeros_like(self.bias)
        if self.has_bias:
            reference_mean = self.reference.priors @ self.reference.means
            bias_change = -(self.beta / self.c) * (v @ reference_mean)
        v_solved = self.solve(v)
        outputs_change = means @ v.mT + bias_change
        means_change = -self.residuals @ v_solved - outputs_change @ self.lift
        residuals_change = outputs_change + means_change @ w.mT
        priors = self.reference.priors[:, None]
        between = residuals_change.mT @ (priors * means)
        between += self.residuals.mT @ (priors * means_change)
        v_within = v @ self.within
        within = (
            self.c * (self.gain @ v_within)
            - (self.lift @ v.mT) @ self.weight_within
            - (self.weight_within @ v.mT) @ self.lift
            - (self.weight_within @ w.mT) @ v_solved
        )
        return between + within + self.lambda_w / w.shape[0] * v

"""First-order response of the optimum of (1) (Tirer et al. 2023, Theorem 4.1)."""

from dataclasses import dataclass
from functools import cached_property, singledispatch
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.arrays import Rows
from perturb_nc.theory.isolated import check_isolated, solve_isolated
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.solution import Solution
from perturb_nc.validation import ArrayLike, as_features, as_labels


@dataclass(frozen=True, eq=False, repr=False)
class LinearResponse(Summarised):
    """The linear map δH0 ↦ (δH, δW) at an optimum, built by `linear_response`."""

    solution: Solution
    labels: Int64[Tensor, "N"]
    features: Float64[Tensor, "N d"]

    def _summary(self) -> dict[str, object]:
        return {"num_samples": len(self.labels), **self.solution._summary()}

    @cached_property
    def _point(self) -> ReducedPoint:
        return self.solution.problem.at(self.solution.weight)

    @cached_property
    def _own(self) -> Float64[Tensor, "N d"]:
        """H, centred in the model with bias."""
        return self.features - self._point.drift

    @cached_property
    def _errors(self) -> Float64[Tensor, "N K"]:
        """E = WH + b1ᵀ - Y."""
        return self._own @ self._point.weight.mT - self._point.targets[self.labels]

    def weight(self, perturbation: ArrayLike) -> Float64[Tensor, "K d"]:
        """δW for a perturbation δH0 (N, d) of the reference features."""
        change, _ = self._centred(self._checked(perturbation))
        return self._weight(self._point.beta * self._point.solve(change))

    def apply(
        self, perturbation: ArrayLike, *, order: Literal["exact", "large_beta"] = "exact"
    ) -> Float64[Tensor, "N d"]:
        """δH for a perturbation δH0 (N, d) of the reference features.

        order "exact" is the derivative at this β:

            δH = P⁻¹(βδH0 + δWᵀT - (δWᵀW + WᵀδW)H),   ∇²g[δW] = -(WδH_fHᵀ + EδH_fᵀ)/N,

        δH_f = βP⁻¹δH0 (with a bias all of it centred, and the mean of δH is β/c that of δH0);
        "large_beta" is the paper's expansion to O(1/β), eq. (5): δH = δH0 - β⁻¹ N∇²L(H*)[δH0],
        with L(H) = min_W f at β = 0.
        """
        if order not in ("exact", "large_beta"):
            raise ValueError(f"order must be 'exact' or 'large_beta', got {order!r}")
        point = self._point
        change, mean = self._centred(self._checked(perturbation))
        if order == "large_beta":
            moved = change - self._path_hessian(change) / point.beta
            return moved + (1 - point.lambda_h / point.beta) * mean
        fixed = point.beta * point.solve(change)
        dw = self._weight(fixed)
        pull = -self._errors @ dw - (self._own @ dw.mT) @ point.weight
        return fixed + point.solve(pull) + (point.beta / point.c) * mean

    def _centred(
        self, change: Float64[Tensor, "N d"]
    ) -> tuple[Float64[Tensor, "N d"], Float64[Tensor, "d"]]:
        """A change less its mean, and that mean; without bias nothing is taken off."""
        mean = change.mean(0)
        if not self._point.has_bias:
            mean = torch.zeros_like(mean)
        return change - mean, mean

    def _weight(self, fixed: Float64[Tensor, "N d"]) -> Rows:
        """δW for the change `fixed` of H at fixed W."""
        change = (fixed @ self._point.weight.mT).mT @ self._own + self._errors.mT @ fixed
        return solve_isolated(self._point, -change[None] / len(fixed))[0]

    def _path_hessian(self, change: Float64[Tensor, "N d"]) -> Float64[Tensor, "N d"]:
        """N∇²L[Δ] for L(H) = min_{W,b} f(W, H) at β = 0, at this H and W."""
        point, h, errors = self._point, self._own, self._errors
        w, n = point.weight, len(change)
        moment = h.mT @ h / n
        moment.diagonal().add_(self.solution.problem.lambda_w / len(w))
        pull = -((change @ w.mT).mT @ h + errors.mT @ change) / n
        dw = torch.linalg.solve(moment, pull.mT).mT
        outputs = change @ w.mT + h @ dw.mT
        return outputs @ w + errors @ dw + point.lambda_h * change

    def _checked(self, perturbation: ArrayLike) -> Float64[Tensor, "N d"]:
        x = as_features(perturbation, name="perturbation", dim=self.features.shape[1])
        if len(x) != len(self.features):
            raise ValueError(
                f"perturbation must have one row per sample: got {len(x)} for {len(self.features)}"
            )
        return x.to(self.features)


@singledispatch
def linear_response(
    solution: Solution, reference_features: ArrayLike, labels: ArrayLike
) -> LinearResponse:
    """The derivative of the optimum in the reference features, as a linear map on (N, d).

    Applying it costs O(NKd) and one K·d linear system (dense when small, conjugate gradients
    otherwise); the dN×dN matrix F of the paper is never formed. The remainder is second order.

    Holds at every isolated optimum (∇²g ≻ 0) with β > 0, at any distance from collapse, for classes
    of any sizes, with and without bias. Where it is no isolated optimum - β = 0, or class means
    that do not tell rotations apart - there is no derivative.

    Args:
        solution: a converged Solution.
        reference_features: (N, d), those the problem was built from.
        labels: (N,), theirs.

    Raises:
        ValueError: a solution that has not converged or sits on a continuum of optima (β = 0);
            features that are not those of the problem.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> problem = pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        >>> response = pnc.linear_response(pnc.minimize(problem), features, labels)
        >>> moved = response.apply(1e-3 * features)  # how H* follows H0
        >>> moved.shape
        torch.Size([60, 5])

    See Also:
        hyperparameter_response: derivatives in λ_W, λ_H, β. near_collapse_spectrum: at collapse.

    Source: Tirer et al. 2023, Theorem 4.1; docs §4.3.
    """
    check_isolated(solution)
    h0 = as_features(reference_features, name="reference_features", dim=solution.weight.shape[1])
    y = as_labels(labels, len(h0)).to(solution.weight.device)
    given = ClassStatistics.from_features(h0, y).to(solution.weight.device)
    expected = solution.problem.statistics
    size = expected.second_moment.trace().item()
    if not (
        torch.equal(given.counts, expected.counts)
        and torch.allclose(given.means, expected.means, rtol=0.0, atol=1e-6 * size**0.5)
        and torch.allclose(given.within, expected.within, rtol=0.0, atol=1e-6 * size)
    ):
        raise ValueError(
            "reference_features and labels must be those the problem was built from; their class "
            "statistics differ. Build NearCollapseProblem from these features first"
        )
    return LinearResponse(solution, y, solution.features(h0, y))

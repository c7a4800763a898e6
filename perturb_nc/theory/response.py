"""First-order response of the optimum of (1) (Tirer et al. 2023, Theorem 4.1)."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.metrics import metric_tensors
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.minimize import Solution, Status
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.reduced import ReducedPoint, Rows
from perturb_nc.validation import ArrayLike, as_features, as_labels, positive

_TOLERANCE = 1e-12
_DENSE_LIMIT = 1024  # K·d up to which the Hessian of g is formed, for speed

HYPERPARAMETERS = ("lambda_w", "lambda_h", "beta")


@dataclass(frozen=True, eq=False)
class LinearResponse:
    """The linear map δH0 ↦ (δH, δW) at an optimum, built by `linear_response`."""

    solution: Solution
    labels: Int64[Tensor, "N"]
    features: Float64[Tensor, "N d"]

    @cached_property
    def _point(self) -> ReducedPoint:
        return self.solution.problem.at(self.solution.weight)

    def weight(self, perturbation: ArrayLike) -> Float64[Tensor, "K d"]:
        """δW for a perturbation δH0 (N, d) of the reference features."""
        return self._weight(self._fixed_weight_change(self._checked(perturbation)))

    def apply(
        self, perturbation: ArrayLike, *, order: Literal["exact", "large_beta"] = "exact"
    ) -> Float64[Tensor, "N d"]:
        """δH for a perturbation δH0 (N, d) of the reference features.

        order "exact" is the derivative at this β:

            δH = P⁻¹(βδH0 + δWᵀT - (δWᵀW + WᵀδW)H - Wᵀδb1ᵀ),   ∇²g[δW] = -δ(∇g) at fixed W;

        "large_beta" is the paper's expansion to O(1/β), eq. (5): δH = δH0 - β⁻¹ N∇²L(H*)[δH0],
        with L(H) = min_W f at β = 0.
        """
        change = self._checked(perturbation)
        if order == "large_beta":
            return change - self._path_hessian(change) / self._point.beta
        if order != "exact":
            raise ValueError(f"order must be 'exact' or 'large_beta', got {order!r}")
        fixed, bias_fixed = self._fixed_weight_change(change)
        point, dw = self._point, self._weight((fixed, bias_fixed))
        bias = torch.zeros_like(point.bias)
        if point.has_bias:
            mean = point.reference.priors @ point.reference.means
            bias = -(point.beta / point.c) * (dw @ mean)
        h, w = self.features, point.weight
        pull = (point.targets[self.labels] - h @ w.mT) @ dw - (h @ dw.mT + bias) @ w
        return fixed + point.solve(pull)

    def _weight(self, fixed: tuple[Float64[Tensor, "N d"], Float64[Tensor, "K"]]) -> Rows:
        point, (dh, db) = self._point, fixed
        n, h = len(dh), self.features
        errors = h @ point.weight.mT - point.targets[self.labels]
        gradient_change = (dh @ point.weight.mT + db).mT @ h + errors.mT @ dh
        return _solve(self.solution, -gradient_change / n)

    def _fixed_weight_change(
        self, change: Float64[Tensor, "N d"]
    ) -> tuple[Float64[Tensor, "N d"], Float64[Tensor, "K"]]:
        """δH and δb with W held: δb = -(β/c)Wδh̄0, δH = P⁻¹(βδH0 - Wᵀδb1ᵀ)."""
        point = self._point
        bias = torch.zeros_like(point.bias)
        if point.has_bias:
            bias = -(point.beta / point.c) * (point.weight @ change.mean(0))
        return point.beta * point.solve(change) - bias @ point.lift, bias

    def _path_hessian(self, change: Float64[Tensor, "N d"]) -> Float64[Tensor, "N d"]:
        """N∇²L[Δ] for L(H) = min_{W,b} f(W, H) at β = 0, at this H and W."""
        point, h = self._point, self.features
        w, n = point.weight, len(change)
        errors = h @ w.mT - point.targets[self.labels]
        centered, shift = h, change
        if point.has_bias:
            centered, shift = h - h.mean(0), change - change.mean(0)
        moment = centered.mT @ centered / n
        moment.diagonal().add_(point.lambda_w / len(w))
        pull = -((shift @ w.mT).mT @ centered + errors.mT @ shift) / n
        dw = torch.linalg.solve(moment, pull.mT).mT
        outputs = shift @ w.mT + centered @ dw.mT
        return outputs @ w + errors @ dw + point.lambda_h * change

    def _checked(self, perturbation: ArrayLike) -> Float64[Tensor, "N d"]:
        x = as_features(perturbation, name="perturbation", dim=self.features.shape[1])
        if len(x) != len(self.features):
            raise ValueError(
                f"perturbation must have one row per sample: got {len(x)} for {len(self.features)}"
            )
        return x.to(self.features)


def linear_response(
    solution: Solution, reference_features: ArrayLike, labels: ArrayLike
) -> LinearResponse:
    """The derivative of the optimum in the reference features, as a linear map on (N, d).

    Applying it costs O(NKd) and one K·d linear system (dense when small, conjugate gradients
    otherwise); the dN×dN matrix F of the paper is never formed. The remainder is second order.

    Args:
        solution: a converged Solution.
        reference_features: (N, d), those the problem was built from.
        labels: (N,), theirs.

    Raises:
        ValueError: a solution that has not converged or sits on a continuum of optima (β = 0);
            features that are not those of the problem.

    Source: Tirer et al. 2023, Theorem 4.1; DESIGN §4.3.
    """
    _check_isolated(solution)
    h0 = as_features(reference_features, name="reference_features", dim=solution.weight.shape[1])
    y = as_labels(labels, len(h0)).to(solution.weight.device)
    given = ClassStatistics.from_features(h0, y).to(solution.weight.device)
    expected = solution.problem.statistics
    scale = expected.second_moment.trace().sqrt()
    if not torch.equal(given.counts, expected.counts) or not torch.allclose(
        given.means, expected.means, rtol=0.0, atol=1e-6 * scale.item()
    ):
        raise ValueError(
            "reference_features and labels must be those the problem was built from; their class "
            "statistics differ. Build NearCollapseProblem from these features first"
        )
    return LinearResponse(solution, y, solution.features(h0, y))


@dataclass(frozen=True, eq=False)
class HyperparameterResponse:
    """Derivatives of the optimum in λ_W, λ_H and β; each attribute is keyed by parameter name.

    Attributes:
        weight: dW, (K, d).
        means: derivative of the class means of H, (K, d).
        within: derivative of its within-class covariance, (d, d).
        metrics: derivative of every field of CollapseMetrics, of the last layer W* at H*.
        objective: derivative of f (partial, by the envelope theorem).
    """

    weight: dict[str, Float64[Tensor, "K d"]]
    means: dict[str, Float64[Tensor, "K d"]]
    within: dict[str, Float64[Tensor, "d d"]]
    metrics: dict[str, dict[str, float]]
    objective: dict[str, float]


def hyperparameter_response(solution: Solution) -> HyperparameterResponse:
    """Derivatives of the optimum, its statistics and all metrics in λ_W, λ_H and β.

    dW = -∇²g⁻¹ ∂∇g, then forward-mode differentiation of statistics and metrics along
    (dW, dλ). Metrics that are not differentiable where they stand (standard deviations at 0)
    give NaN.

    Raises:
        ValueError: a solution that has not converged or sits on a continuum of optima (β = 0).

    Source: implicit function theorem; DESIGN §4.3.
    """
    _check_isolated(solution)
    problem, w = solution.problem, solution.weight
    values = torch.tensor([getattr(problem, name) for name in HYPERPARAMETERS]).to(w)

    def point(weight: Tensor, parameters: Tensor) -> ReducedPoint:
        return ReducedPoint(problem.statistics, weight, parameters, problem.bias)

    def outcome(weight: Tensor, parameters: Tensor) -> dict[str, Tensor]:
        at = point(weight, parameters)
        statistics = problem.statistics.moved(at.means, at.within)
        return {
            "means": statistics.means,
            "within": statistics.within,
            "objective": at.objective,
            **metric_tensors(statistics, weight),
        }

    result = HyperparameterResponse({}, {}, {}, {}, {})
    for i, name in enumerate(HYPERPARAMETERS):
        unit = torch.zeros_like(values)
        unit[i] = 1.0
        forcing = torch.func.jvp(lambda p: point(w, p).gradient, (values,), (unit,))[1]
        dw = _solve(solution, -forcing)
        primals, tangents = torch.func.jvp(outcome, (w, values), (dw, unit))[:2]
        result.weight[name] = dw
        result.means[name] = tangents.pop("means")
        result.within[name] = tangents.pop("within")
        result.objective[name] = tangents.pop("objective").item()
        # torch differentiates the constant NaN of an undefined metric to 0.
        result.metrics[name] = {
            metric: math.nan if primals[metric].isnan() else tangent.item()
            for metric, tangent in tangents.items()
        }
    return result


def _solve(solution: Solution, right: Rows) -> Rows:
    """∇²g⁻¹[right] at the solution."""
    point = solution.problem.at(solution.weight)
    if right.numel() > _DENSE_LIMIT:
        return solve_hessian(point, right, _TOLERANCE).solution
    units = torch.eye(right.numel()).to(right).unflatten(1, right.shape)
    hessian = torch.stack([point.hessian_vector_product(unit).flatten() for unit in units])
    return torch.linalg.solve(hessian, right.flatten()).unflatten(0, right.shape)


def _check_isolated(solution: Solution) -> None:
    if solution.status is not Status.CONVERGED:
        raise ValueError(f"solution must have converged; it {solution.status.value}")
    positive(solution.problem.beta, "beta of the solution (at 0 rotations leave the optimum free)")

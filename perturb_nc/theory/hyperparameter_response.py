"""Derivatives of the optimum of (1) in λ_W, λ_H and β."""

from dataclasses import dataclass
from functools import singledispatch

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.table import metric_tensors
from perturb_nc.summary import Summarised
from perturb_nc.theory.isolated import check_isolated, solve_isolated
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.tangents import gradient_tangent, outcome_tangents, point_tangent


@dataclass(frozen=True, eq=False, repr=False)
class HyperparameterResponse(Summarised):
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

    def _summary(self) -> dict[str, object]:
        shown = ("nc1_trace", "nc1", "nc2_etf")
        moves: dict[str, object] = {
            f"d{metric}/d{name}": values[metric]
            for metric in shown
            for name, values in self.metrics.items()
        }
        first = {f"dobjective/d{name}": value for name, value in self.objective.items()}
        return {**first, **moves}


@singledispatch
def hyperparameter_response(solution: Solution) -> HyperparameterResponse:
    """Derivatives of the optimum, its statistics and all metrics in λ_W, λ_H and β.

    dW = -∇²g⁻¹ ∂∇g, then the formulas of `perturb_nc.theory.tangents` and, for the metrics, of
    `perturb_nc.metrics.tangents` along (dW, dλ). Metrics that are undefined, or not differentiable
    (distances and standard deviations at 0), give NaN. cdnv is that of `ClassStatistics.moved`.

    Raises:
        ValueError: a solution that has not converged or sits on a continuum of optima (β = 0).

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> problem = pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        >>> response = pnc.hyperparameter_response(pnc.minimize(problem))
        >>> response.metrics["beta"]["nc1"] > 0  # features held nearer to H0 collapse less
        True

    See Also:
        linear_response: in the features. minimize_batch: whose `derivatives` are of many settings.

    Source: implicit function theorem; docs §4.3.
    """
    check_isolated(solution)
    return response_at(solution.problem.at(solution.weight))


def response_at(point: ReducedPoint) -> HyperparameterResponse:
    """`hyperparameter_response` at the weight of a point, an isolated optimum or near one."""
    units = torch.diag(torch.ones_like(point.hyperparameters))
    weight = solve_isolated(point, -gradient_tangent(point, units))
    change = point_tangent(point, weight, units)
    statistics = point.reference.moved(point.means, point.within)
    values = metric_tensors(statistics, point.weight)
    metrics = outcome_tangents(point, statistics, values, weight, change)
    rows = {m: tangents.tolist() for m, tangents in metrics.items()}
    return HyperparameterResponse(
        weight=dict(zip(HYPERPARAMETERS, weight, strict=True)),
        means=dict(zip(HYPERPARAMETERS, change.means, strict=True)),
        within=dict(zip(HYPERPARAMETERS, change.within, strict=True)),
        metrics={p: {m: row[i] for m, row in rows.items()} for i, p in enumerate(HYPERPARAMETERS)},
        objective=dict(zip(HYPERPARAMETERS, change.objective.tolist(), strict=True)),
    )

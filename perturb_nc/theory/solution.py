"""The optimum of (1), as it is handed out."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.certificate import Certificate, certify_point
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.status import Status
from perturb_nc.validation import ArrayLike, as_features, as_labels

Rows = Float64[Tensor, "K d"]


@dataclass(frozen=True, eq=False, repr=False)
class Solution(Summarised):
    """The optimum of a NearCollapseProblem.

    Attributes:
        problem: what was solved.
        weight: W*, (K, d).
        bias: b*, (K,), or None in the model without bias.
        statistics: class statistics of H*, of the same kind as measured ones. Means and
            within-class covariance are exact; class variances as in `ClassStatistics.moved`.
        objective: f(W*, H*).
        gradient_norm: ‖∇g‖_F relative to its bound |E||H|/N + (λ_W/K)|W|, E = WH + b1ᵀ - Y.
        steps: Newton steps taken.
        products: Hessian-vector products taken.
        status: how it ended.
        certificate: proof of, or distance from, global optimality.
        lowest_curvature: lowest eigenvalue of ∇²g(W*) relative to the Hessian at fixed H (at most
            1): second-order conditions hold where it is >= -curvature_tolerance. Where a space that
            holds W tells, it is that of this space, and elsewhere at least half of it. NaN where it
            was not looked for: the certificate proves W* global, or time_limit came before.
        curvature_tolerance: for rounding, for a gradient that is not 0 and for a Lanczos process
            that was stopped.
    """

    problem: NearCollapseProblem
    weight: Rows
    bias: Float64[Tensor, "K"] | None
    objective: float
    gradient_norm: float
    steps: int
    products: int
    status: Status
    certificate: Certificate
    lowest_curvature: float = math.nan
    curvature_tolerance: float = math.nan

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of H*; d×d matrices are formed when they are asked for."""
        point = self.problem.at(self.weight)
        return point.reference.moved(point.means, point.within)

    @cached_property
    def metrics(self) -> CollapseMetrics:
        """Every collapse metric of `statistics`, read by `weight`."""
        return collapse_metrics(self.statistics, self.weight)

    def _summary(self) -> dict[str, object]:
        return {
            **self.problem._summary(),
            "objective": self.objective,
            "gradient_norm": self.gradient_norm,
            "steps": self.steps,
            "nc1_trace": self.metrics.nc1_trace,
            "nc1": self.metrics.nc1,
            "nc2_etf": self.metrics.nc2_etf,
            "nc3_duality": self.metrics.nc3_duality,
            "status": self.status,
            "certificate": str(self.certificate),
        }

    def features(self, reference_features: ArrayLike, labels: ArrayLike) -> Float64[Tensor, "N d"]:
        """Optimal features of given samples, (WᵀW + cI)⁻¹(Wᵀ(e_y - b) + βh0).

        Args:
            reference_features: (N, d), those the problem was built from or others.
            labels: (N,) in 0..K-1.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels out of range.
        """
        point = self.problem.at(self.weight)
        x = as_features(reference_features, name="reference_features", dim=self.weight.shape[1])
        y = as_labels(labels, len(x), num_classes=self.weight.shape[0])
        device = self.weight.device
        return point.features(x.to(device, torch.float64), y.to(device))


def solution_at(
    problem: NearCollapseProblem, weight: Rows, *, status: Status, **counted: Any
) -> Solution:
    """The Solution that has this weight."""
    point = problem.at(weight)
    return Solution(
        problem=problem,
        weight=weight,
        bias=point.bias if problem.bias else None,
        objective=point.objective.item(),
        gradient_norm=point.gradient_norm.item(),
        status=status,
        certificate=certify_point(point),
        **counted,
    )

"""Many settings of the hyper-parameters on one set of class statistics (a plain loop for now)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.minimize import Solution, Status, minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.response import HYPERPARAMETERS, hyperparameter_response


@dataclass(frozen=True, eq=False)
class SolutionBatch:
    """The optima of B settings."""

    lambda_w: Float64[Tensor, "B"]
    lambda_h: Float64[Tensor, "B"]
    beta: Float64[Tensor, "B"]
    objective: Float64[Tensor, "B"]
    gradient_norm: Float64[Tensor, "B"]
    spectral_ratio: Float64[Tensor, "B"]
    lower_bound: Float64[Tensor, "B"]
    gap: Float64[Tensor, "B"]
    is_global: Bool[Tensor, "B"]
    status: list[Status]
    steps: Int64[Tensor, "B"]
    singular_values: Float64[Tensor, "B K"]
    metrics: dict[str, Float64[Tensor, "B"]]
    solutions: list[Solution]

    def solution(self, i: int) -> Solution:
        """The optimum of setting i."""
        return self.solutions[i]

    def derivatives(self) -> dict[str, dict[str, Float64[Tensor, "B"]]]:
        """Metric or "objective" → parameter → derivative in the log of the parameter."""
        names = [*(f.name for f in fields(CollapseMetrics)), "objective"]
        found = {
            n: {p: torch.full_like(self.beta, math.nan) for p in HYPERPARAMETERS} for n in names
        }
        for i, solution in enumerate(self.solutions):
            try:
                response = hyperparameter_response(solution)
            except ValueError:
                continue
            for p in HYPERPARAMETERS:
                value = getattr(solution.problem, p)
                for n in names[:-1]:
                    found[n][p][i] = value * response.metrics[p][n]
                found["objective"][p][i] = value * response.objective[p]
        return found


def minimize_batch(
    statistics: ClassStatistics,
    *,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    beta: Sequence[float],
    bias: bool = False,
    tol: float = 1e-10,
) -> SolutionBatch:
    """Minimise (1) at B settings."""
    settings = [tuple(map(float, s)) for s in zip(lambda_w, lambda_h, beta, strict=True)]
    solutions = [
        minimize(
            NearCollapseProblem(statistics, lambda_w=w, lambda_h=h, beta=b, bias=bias), tol=tol
        )
        for w, h, b in settings
    ]
    metrics = [collapse_metrics(s.statistics, s.weight).as_dict() for s in solutions]

    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    w, h, b = torch.tensor(settings, dtype=torch.float64).T
    certificates = [s.certificate for s in solutions]
    return SolutionBatch(
        lambda_w=w,
        lambda_h=h,
        beta=b,
        objective=column([s.objective for s in solutions]),
        gradient_norm=column([s.gradient_norm for s in solutions]),
        spectral_ratio=column([c.spectral_ratio for c in certificates]),
        lower_bound=column([c.lower_bound for c in certificates]),
        gap=column([c.gap for c in certificates]),
        is_global=torch.tensor([c.is_global for c in certificates]),
        status=[s.status for s in solutions],
        steps=torch.tensor([s.steps for s in solutions]),
        singular_values=torch.stack([torch.linalg.svdvals(s.weight) for s in solutions]),
        metrics={n: column([m[n] for m in metrics]) for n in metrics[0]},
        solutions=solutions,
    )

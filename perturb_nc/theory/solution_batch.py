"""The optima of many settings of the hyper-parameters, held together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Tabular, tally
from perturb_nc.theory.batch_points import Part, logarithmic, points, unit_logs
from perturb_nc.theory.descent import COUNTED
from perturb_nc.theory.isolated import weight_response
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.solution import Solution, solution_at
from perturb_nc.theory.status import Status
from perturb_nc.validation import positive

_NUMBERS = (*HYPERPARAMETERS, "objective", *COUNTED, "spectral_ratio", "gap", "is_global")


@dataclass(frozen=True, eq=False, repr=False)
class SolutionBatch(Tabular):
    """The optima of B settings; tensors of shape (B,) unless said.

    Attributes:
        statistics, bias: of the problems.
        lambda_w, lambda_h, beta: the settings.
        objective, gradient_norm, steps, products, status, lowest_curvature, curvature_tolerance: as
            in `Solution`.
        spectral_ratio, lower_bound, gap, is_global: as in `Certificate`.
        singular_values: of W, decreasing, (B, min(K, d)).
        metrics: every field of CollapseMetrics, of the features H* read by the last layer W*.
    """

    statistics: ClassStatistics
    bias: bool
    lambda_w: Float64[Tensor, "B"]
    lambda_h: Float64[Tensor, "B"]
    beta: Float64[Tensor, "B"]
    objective: Float64[Tensor, "B"]
    gradient_norm: Float64[Tensor, "B"]
    steps: Int64[Tensor, "B"]
    products: Int64[Tensor, "B"]
    status: list[Status]
    lowest_curvature: Float64[Tensor, "B"]
    curvature_tolerance: Float64[Tensor, "B"]
    spectral_ratio: Float64[Tensor, "B"]
    lower_bound: Float64[Tensor, "B"]
    gap: Float64[Tensor, "B"]
    is_global: Bool[Tensor, "B"]
    singular_values: Float64[Tensor, "B r"]
    metrics: dict[str, Float64[Tensor, "B"]]
    _parts: list[Part]

    _index = ("setting",)
    _main = (*HYPERPARAMETERS, "nc1", "nc2_etf", "spectral_ratio", "status")

    def _columns(self) -> dict[str, list[Any]]:
        numbers = {name: getattr(self, name).tolist() for name in _NUMBERS}
        metrics = {name: values.tolist() for name, values in self.metrics.items()}
        words = {"status": [status.name for status in self.status]}
        return {"setting": [*range(len(self))]} | numbers | metrics | words

    def _summary(self) -> dict[str, object]:
        ends = {n: [getattr(self, n).min(), getattr(self, n).max()] for n in HYPERPARAMETERS}
        s = self.statistics
        return {
            "settings": len(self),
            "num_classes": s.num_classes,
            "dim": s.dim,
            **ends,
            "bias": self.bias,
            "status": tally(self.status),
            "certified_global": int(self.is_global.sum()),
        }

    def __len__(self) -> int:
        """B."""
        return len(self.status)

    def weight(self, i: int) -> Float64[Tensor, "K d"]:
        """W* of setting i."""
        i = range(len(self))[i]
        for part in self._parts:
            at = (part.index == i).nonzero()
            if len(at):
                return part.space.lifted(part.weight[at[0, 0]])
        raise AssertionError("every member is in a part")

    def solution(self, i: int) -> Solution:
        """The Solution of setting i, in all d dimensions."""
        own = {name: float(getattr(self, name)[i]) for name in HYPERPARAMETERS}
        problem = NearCollapseProblem(self.statistics, **own, bias=self.bias)
        return solution_at(
            problem,
            self.weight(i),
            status=self.status[i],
            **{name: getattr(self, name)[i].item() for name in COUNTED},
        )

    def derivatives(self) -> dict[str, dict[str, Float64[Tensor, "B"]]]:
        """Metric (or "objective") → parameter → derivative in the log of the parameter.

        Exact, as `hyperparameter_response` (times the parameter). NaN where that raises (no
        convergence, β = 0, a continuum of optima) and where the metric is undefined or 0.
        """
        found = {
            name: {p: torch.full_like(self.objective, torch.nan) for p in HYPERPARAMETERS}
            for name in (*self.metrics, "objective")
        }
        for part, rows, point in self._points():
            index = part.index[rows]
            values = {name: metric[index] for name, metric in self.metrics.items()}
            for name, slopes in logarithmic(point, values).items():
                for parameter, slope in zip(HYPERPARAMETERS, slopes, strict=True):
                    found[name][parameter][index] = slope
        unusable = self.beta == 0
        unusable |= unusable.new_tensor([s is not Status.CONVERGED for s in self.status])
        for derivatives in found.values():
            for slope in derivatives.values():
                slope[unusable] = torch.nan
        return found

    def predicted_weight(self, beta: Sequence[float]) -> Float64[Tensor, "B K d"]:
        """W* at other values of β > 0, to first order in log β: a start for `minimize_batch`.

        Unchanged where the optimum is not isolated.
        """
        wanted = self.beta.new_tensor([positive(b, "beta") for b in beta])
        if len(wanted) != len(self):
            raise ValueError(f"beta must have one value a setting, {len(self)}, got {len(wanted)}")
        result = self.statistics.means.new_empty(len(self), *self.statistics.means.shape)
        for part, rows, point in self._points():
            index = part.index[rows]
            change, isolated = weight_response(
                point, unit_logs(point)[HYPERPARAMETERS.index("beta")]
            )
            shift = torch.where(isolated, (wanted / self.beta).log()[index], 0.0)
            moved = point.weight + shift[:, None, None] * change
            result[index] = part.space.lifted(moved)
        return result

    def _points(self) -> Iterator[tuple[Part, slice, ReducedPoint]]:
        settings = torch.stack([self.lambda_w, self.lambda_h, self.beta], dim=1)
        return points(self._parts, settings, self.bias)

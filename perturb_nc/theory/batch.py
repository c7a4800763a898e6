"""The optimum of (1) for many settings of the hyper-parameters at once."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from perturb_nc.metrics import metric_tensors
from perturb_nc.moments import Moments
from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.summary import Tabular, tally
from perturb_nc.theory.certificate import certify_batch
from perturb_nc.theory.compression import Compression, compress
from perturb_nc.theory.descent import COUNTED, Descent, Points, descend
from perturb_nc.theory.minimize import Solution, solution_at, starting_weight
from perturb_nc.theory.newton import Clock, Progress
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.regularization import settings as all_settings
from perturb_nc.theory.response import weight_response
from perturb_nc.theory.status import Status
from perturb_nc.theory.tangents import outcome_tangents, point_tangent
from perturb_nc.validation import ArrayLike, as_matrix, at_least, positive

_BYTES = 256 * 2**20  # of d×d matrices at once
_MATRICES = 6  # of them for a setting
_NUMBERS = (*HYPERPARAMETERS, "objective", *COUNTED, "spectral_ratio", "gap", "is_global")
_CACHED = 16  # settings whose derivatives a CPU takes at once


@dataclass(frozen=True, eq=False)
class StatisticsBatch(Moments):
    """What metrics read, of several feature sets of one set of classes."""

    means: Float64[Tensor, "... K d"]
    within: Float64[Tensor, "... d d"]
    class_variance: Float64[Tensor, "... K"]


@dataclass(frozen=True, eq=False)
class _Part:
    """Members of a batch that were solved together, in the coordinates of a space."""

    index: Int64[Tensor, "b"]
    space: Compression
    weight: Float64[Tensor, "b K n"]


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
    _parts: list[_Part]

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
            for name, slopes in _logarithmic(point, values).items():
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
            change, isolated = weight_response(point, _logs(point)[HYPERPARAMETERS.index("beta")])
            shift = torch.where(isolated, (wanted / self.beta).log()[index], 0.0)
            moved = point.weight + shift[:, None, None] * change
            result[index] = part.space.lifted(moved)
        return result

    def _points(self) -> Iterator[tuple[_Part, slice, ReducedPoint]]:
        settings = torch.stack([self.lambda_w, self.lambda_h, self.beta], dim=1)
        return _points(self._parts, settings, self.bias)


def minimize_batch(
    statistics: ClassStatistics,
    *,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    beta: Sequence[float],
    bias: bool = False,
    tol: float = 1e-10,
    max_steps: int = 200,
    initial_weight: ArrayLike | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> SolutionBatch:
    """`minimize` for B settings of the hyper-parameters, on the device of the statistics.

    All settings are solved together on a subspace of some 11 K dimensions that holds their weights
    (see `perturb_nc.theory.compression`), where the features are much wider than that. The subspace
    grows for those whose gradient in all d dimensions is not below `tol`.

    Args:
        statistics: of H0.
        lambda_w, lambda_h, beta, bias: the settings, lists of one length; one bias for all.
        tol: the relative gradient norm to reach, in all d dimensions.
        max_steps: Newton steps at most, in every subspace.
        initial_weight: (B, K, d), from `SolutionBatch.predicted_weight`, say; by default W*(H0).
        time_limit: seconds after which what has been reached is returned, with TIME_LIMIT.
        progress: called as progress(steps, gradient_norm) with the largest of those still moving.

    Raises:
        ValueError: settings out of range or of different lengths; tol, max_steps or time_limit out
            of range; statistics too badly scaled for float64.
    """
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    check_full(statistics)
    asked = [setting.bounded() for setting in all_settings(lambda_w, lambda_h, beta)]
    settings = torch.stack([setting.as_tensor(statistics.means) for setting in asked])
    if initial_weight is not None:
        shape = (len(settings), *statistics.means.shape)
        initial_weight = as_matrix(initial_weight, shape, name="initial_weight").to(settings)
    clock = Clock.of(time_limit, progress)
    space = compress(statistics, settings)
    parts: list[_Part] = []
    rest = torch.arange(len(settings), device=settings.device)
    if initial_weight is None:
        weight = _starts(space.statistics, settings, bias)
    else:
        weight = space.compressed(initial_weight)
    counted = Descent.begun(weight)
    while True:
        rough = torch.zeros_like(rest, dtype=torch.bool)
        for rows in _chunks(len(rest), space.statistics.dim):
            index = rest[rows]
            own = settings[index]
            family = _family(space, own, bias)
            found = descend(family, weight[rows], tol, max_steps, space.neglected, clock)
            counted.add(index, found)
            weight[rows] = found.weight
            point = ReducedPoint(space.statistics, found.weight, own, bias)
            rough[rows] = (_norm(space, point) > tol) & (space.basis is not None)
        if clock.expired():
            counted.end(rest[rough], Status.TIME_LIMIT)
            rough[:] = False
        parts.append(_Part(rest[~rough], space, weight[~rough]))
        if not rough.any():
            break
        rest = rest[rough]
        point = ReducedPoint(space.statistics, weight[rough], settings[rest], bias)
        wider = space.grown(statistics, point)
        space, weight = wider, wider.compressed(space.lifted(point.weight))
    return _collect(statistics, settings, bias, parts, counted)


def _family(space: Compression, settings: Float64[Tensor, "b 3"], bias: bool) -> Points:
    idle = 0 if space.basis is None else 1
    return lambda index: lambda w: ReducedPoint(space.statistics, w, settings[index], bias, idle)


def _starts(
    statistics: ClassStatistics, settings: Float64[Tensor, "b 3"], bias: bool
) -> Float64[Tensor, "b K n"]:
    """`starting_weight` of every setting: once for every λ_W where nothing else matters."""
    alike = bool(statistics.centered_means.any())
    known: dict[tuple[float, ...], Tensor] = {}
    starts = []
    for w, h, b in settings.tolist():
        key = (w,) if alike and b > 0 else (w, h, b)
        if key not in known:
            problem = NearCollapseProblem(statistics, lambda_w=w, lambda_h=h, beta=b, bias=bias)
            known[key] = starting_weight(problem)
        starts.append(known[key])
    return torch.stack(starts)


def _chunks(size: int, dim: int, most: int | None = None) -> Iterator[slice]:
    rows = max(1, _BYTES // (_MATRICES * 8 * dim**2))
    rows = rows if most is None else min(rows, most)
    return (slice(start, start + rows) for start in range(0, size, rows))


def _collect(
    statistics: ClassStatistics,
    settings: Float64[Tensor, "B 3"],
    bias: bool,
    parts: list[_Part],
    counted: Descent,
) -> SolutionBatch:
    values: dict[str, Any] = {}

    def put(name: str, index: Tensor, found: Tensor) -> None:
        if name not in values:
            values[name] = found.new_zeros(len(settings), *found.shape[1:])
        values[name][index] = found

    for part, rows, point in _points(parts, settings, bias):
        index = part.index[rows]
        certificate = certify_batch(point)
        for field in fields(certificate):
            put(field.name, index, getattr(certificate, field.name))
        put("gradient_norm", index, _norm(part.space, point))
        put("singular_values", index, torch.linalg.svdvals(point.weight))
        outcome = _outcome(point)
        put("objective", index, outcome.pop("objective"))
        for name, found in outcome.items():
            put(f"metrics/{name}", index, found)
    metrics = {n.partition("/")[2]: v for n, v in values.items() if n.startswith("metrics/")}
    own = {n: v for n, v in values.items() if not n.startswith("metrics/")}
    w, h, b = settings.unbind(1)
    return SolutionBatch(
        statistics=statistics,
        bias=bias,
        lambda_w=w,
        lambda_h=h,
        beta=b,
        metrics=metrics,
        _parts=parts,
        **own,
        status=counted.status,
        **{name: getattr(counted, name) for name in COUNTED},
    )


def _points(
    parts: list[_Part], settings: Float64[Tensor, "B 3"], bias: bool
) -> Iterator[tuple[_Part, slice, ReducedPoint]]:
    """The optima of every part, as many at a time as fit into memory, or into a CPU's cache."""
    for part in parts:
        most = _CACHED if settings.device.type == "cpu" else None
        for rows in _chunks(len(part.index), part.space.statistics.dim, most):
            own = settings[part.index[rows]]
            yield part, rows, ReducedPoint(part.space.statistics, part.weight[rows], own, bias)


def _norm(space: Compression, point: ReducedPoint) -> Float64[Tensor, "b"]:
    """ReducedPoint.gradient_norm of lifted weights, in all d dimensions."""
    return torch.hypot(point.gradient_norm, space.neglected(point))


def _outcome(point: ReducedPoint) -> dict[str, Float64[Tensor, "b"]]:
    """All metrics and the objective at points."""
    return {**metric_tensors(_moved(point), point.weight), "objective": point.objective}


def _moved(point: ReducedPoint) -> StatisticsBatch:
    """Class statistics of the features at points."""
    s = point.reference
    reference = StatisticsBatch(s.means, s.within, s.class_variance)
    return reference.moved(point.means, point.within)


def _logarithmic(
    point: ReducedPoint, values: dict[str, Float64[Tensor, "b"]]
) -> dict[str, Float64[Tensor, "3 b"]]:
    """Derivatives of metrics (with their values) and the objective in the logs of λ_W, λ_H, β."""
    logs = _logs(point)
    weight, isolated = weight_response(point, logs)
    change = point_tangent(point, weight, logs)
    found = outcome_tangents(point, _moved(point), values, weight, change)
    found["objective"] = change.objective
    return {n: torch.where(isolated, v, torch.nan) for n, v in found.items()}


def _logs(point: ReducedPoint) -> Float64[Tensor, "3 b 3"]:
    """Unit changes of the logs of λ_W, λ_H and β."""
    return torch.diag_embed(point.hyperparameters).movedim(-2, 0)

"""Points of a batch: their metrics and derivatives, as many at a time as fit into memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.metrics.table import metric_tensors
from perturb_nc.moments import Covariance, Moments
from perturb_nc.theory.compression import Compression
from perturb_nc.theory.isolated import weight_response
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.tangents import WithinClasses, outcome_tangents, point_tangent

_BYTES = 256 * 2**20  # of d×d matrices at once
_MATRICES = 6  # of them for a setting
_CACHED = 32  # settings whose derivatives a CPU takes at once


@dataclass(frozen=True, eq=False)
class StatisticsBatch(Moments):
    """What metrics read, of several feature sets of one set of classes."""

    means: Float64[Tensor, "... K d"]
    within: Float64[Tensor, "... d d"] | Covariance  # type: ignore[assignment]
    class_variance: Float64[Tensor, "... K"]


@dataclass(frozen=True, eq=False)
class Part:
    """Members of a batch that were solved together, in the coordinates of a space."""

    index: Int64[Tensor, "b"]
    space: Compression
    weight: Float64[Tensor, "b K n"]


def chunks(size: int, dim: int, most: int | None = None) -> Iterator[slice]:
    """Slices of `size` members: in each as many as d×d matrices fit for, and at most `most`."""
    rows = max(1, _BYTES // (_MATRICES * 8 * dim**2))
    rows = rows if most is None else min(rows, most)
    return (slice(start, start + rows) for start in range(0, size, rows))


def points(
    parts: list[Part], settings: Float64[Tensor, "B 3"], bias: bool
) -> Iterator[tuple[Part, slice, ReducedPoint]]:
    """The optima of every part, as many at a time as fit into memory, or into a CPU's cache."""
    for part in parts:
        most = _CACHED if settings.device.type == "cpu" else None
        for rows in chunks(len(part.index), part.space.statistics.dim, most):
            own = settings[part.index[rows]]
            yield part, rows, part.space.at(part.weight[rows], own, bias)


def metrics_at(point: ReducedPoint) -> Mapping[str, Float64[Tensor, "b"]]:
    """All metrics at points."""
    return metric_tensors(_moved(point), point.weight)


def _moved(point: ReducedPoint) -> StatisticsBatch:
    """Class statistics of the features at points."""
    s = point.reference
    reference = StatisticsBatch(s.means, s.within, s.class_variance)
    return reference.moved(point.means, WithinClasses(point))


def logarithmic(
    point: ReducedPoint, values: dict[str, Float64[Tensor, "b"]]
) -> dict[str, Float64[Tensor, "3 b"]]:
    """Derivatives of metrics (with their values) and the objective in the logs of λ_W, λ_H, β."""
    logs = unit_logs(point)
    weight, isolated = weight_response(point, logs)
    change = point_tangent(point, weight, logs)
    found = outcome_tangents(point, _moved(point), values, weight, change)
    found["objective"] = change.objective
    return {n: torch.where(isolated, v, torch.nan) for n, v in found.items()}


def unit_logs(point: ReducedPoint) -> Float64[Tensor, "3 b 3"]:
    """Unit changes of the logs of λ_W, λ_H and β."""
    return torch.diag_embed(point.hyperparameters).movedim(-2, 0)

"""Derivative of every collapse metric along a change of the statistics and the weight, by formula.

Notation of `perturb_nc.metrics`; a dot marks the change and ⟨A, B⟩ = tr AᵀB. The statistics may
have leading batch dimensions, and a change more of them in front: several directions at once.
A metric of CollapseMetrics stands in TANGENTS or, with the reason, in WITHOUT_TANGENT.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool
from torch import Tensor

from perturb_nc.metrics import duality_tangents as duality
from perturb_nc.metrics import frame_tangents as frame
from perturb_nc.metrics import within_tangents as within
from perturb_nc.metrics.step import ZERO, Change, Rows, Step
from perturb_nc.moments import Moments, Scalar

__all__ = ["TANGENTS", "WITHOUT_TANGENT", "Change", "metric_tangents"]

TANGENTS: Mapping[str, Callable[[Step], Scalar]] = {
    "nc1_trace": lambda step: step.nc1_trace,
    "nc1": lambda step: step.nc1,
    "nc1_parker": within.nc1_parker,
    "nc1_span": within.nc1_span,
    "nc2_etf": frame.nc2_etf,
    "nc2_of": frame.nc2_of,
    "nc2_equinorm": frame.nc2_equinorm,
    "nc2_equiangular": frame.nc2_equiangular,
    "nc2_angle_std": frame.nc2_angle_std,
    "cdnv": within.cdnv,
    "within_share": within.within_share,
    "dnc1": lambda step: step.nc1_trace,
    "dnc2": frame.dnc2,
    "nc3_duality": duality.nc3_duality,
    "nc3_alignment": duality.nc3_alignment,
    "dnc3": duality.dnc3,
    "directional_cdnv": within.directional_cdnv,
    "discrimination": frame.discrimination,
    "nc2_uniformity": frame.nc2_uniformity,
    "nc3_uniformity": duality.nc3_uniformity,
}
WITHOUT_TANGENT: Mapping[str, str] = {}


def metric_tangents(
    values: Mapping[str, Scalar], statistics: Moments, weight: Rows, change: Change
) -> dict[str, Scalar]:
    """Change of every metric of `values` = metric_tensors(statistics, weight), one row a class.

    NaN where a metric is undefined, infinite, has no tangent, or is a distance or a deviation
    that is 0.
    """
    step = Step(statistics, weight, change)
    found = {}
    for name, value in values.items():
        tangent = TANGENTS[name](step) if name in TANGENTS else torch.full_like(value, math.nan)
        found[name] = torch.where(_differentiable(value), tangent, torch.nan)
    return found


def _differentiable(value: Scalar) -> Bool[Tensor, "..."]:
    return value.isfinite() & (value.abs() > ZERO)

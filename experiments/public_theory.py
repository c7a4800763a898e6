"""What the theory says of the public networks, from their shipped statistics alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import perturb_nc as pnc
from experiments import small_vicinity
from perturb_nc.measure import JointStatistics
from perturb_nc.study import theories_of_depth
from perturb_nc.study.rivals import stages

FIT_SECONDS = 120.0
_PLACING = "nc1_span"


def depth(
    layers: Mapping[str, pnc.ClassStatistics],
    joints: Mapping[tuple[str, str], JointStatistics],
    name: str,
) -> dict[str, Any]:
    """Every theory of depth on every stage, to six digits."""
    table = theories_of_depth(layers, name=name, metric=_PLACING, joints=joints)
    for variable, values in table.data_vars.items():
        digits = [float(f"{v:.6g}") for v in values.values.ravel()]
        table[variable] = (values.dims, np.reshape(digits, values.shape))
    found: dict[str, Any] = table.to_dict()
    return found


def fits(layers: Mapping[str, pnc.ClassStatistics]) -> dict[str, Any]:
    """The model fitted to the ends of every stage, and to its last two layers."""
    found = {}
    for stage in stages(layers, _PLACING):
        names = stage.names
        for first in dict.fromkeys((names[0], *names[-2:-1])):
            if first != names[-1]:
                fit = pnc.fit_regularization(
                    layers[first], layers[names[-1]], time_limit=FIT_SECONDS
                )
                found[f"{first} to {names[-1]}"] = _fit(fit)
    return found


def _fit(fit: Any) -> dict[str, Any]:
    kept = ("lambda_w", "lambda_h", "beta", "means_error", "within_error", "residual", "unchanged")
    optimum = pnc.collapse_metrics(fit.solution.statistics)
    observed = pnc.collapse_metrics(fit.observed)
    metrics = ("nc1", "nc1_trace", "nc2_etf", "cdnv")
    return {
        **{name: getattr(fit, name) for name in kept},
        "standard_error": fit.standard_error,
        "at_bound": fit.at_bound,
        "status": fit.status.name,
        "spectral_ratio": fit.solution.certificate.spectral_ratio,
        "metrics": {m: [getattr(observed, m), getattr(optimum, m)] for m in metrics},
    }


def vicinity(path: Path) -> dict[str, Any]:
    """The last layer from the one before, near collapse in closed form and exactly."""
    return small_vicinity.real_layer(path, small_vicinity.Config())

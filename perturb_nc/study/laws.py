"""Laws of depth that are curves in the layer number: lines and parabolas, in the log or not."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perturb_nc.metrics.table import CollapseMetrics
from perturb_nc.study.rivals import Prediction, Stage, Vector
from perturb_nc.validation import at_least, positive


@dataclass(frozen=True)
class SeparationLaw:
    """How the log of a metric goes with the layer number.

    Attributes:
        rate: ρ, the factor of a layer, exp of the slope of the line that fits log D best.
        correlation: Pearson's r of log D and the layer number; -1 for a geometric law.
        curvature: second difference per layer of the parabola that fits log D best; below 0 the
            later layers separate more. NaN for two layers.
    """

    rate: float
    correlation: float
    curvature: float


def separation_law(values: Sequence[float]) -> SeparationLaw:
    """The law of equi-separation, and how far from it the layers are.

    D_l = D_0 ρˡ (He & Su 2023); the curvature tells which layers do the work (the load curve of
    Shi, Pan & Dokmanić 2024).

    Args:
        values: D of the layers in order of depth, He & Su's being tr(Σ_WΣ_B†) (`nc1_parker`).

    Raises:
        ValueError: fewer than two values, or one that is not > 0.
    """
    at_least(len(values), 2, "the number of values")
    logs = np.log([positive(value, "values") for value in values])
    number = np.arange(len(logs))
    slope = np.polyfit(number, logs, 1)[0]
    r = np.corrcoef(number, logs)[0, 1] if logs.std() > 0 else math.nan
    curvature = 2 * np.polyfit(number, logs, 2)[0] if len(logs) > 2 else math.nan
    return SeparationLaw(float(np.exp(slope)), float(r), float(curvature))


def equi_separation(stage: Stage) -> Prediction:
    """The log of each metric on the line that fits best the layers that are seen (He & Su 2023)."""
    return _curve(stage, 1)


def load_curve(stage: Stage) -> Prediction:
    """The log of each metric on the parabola that fits best (Shi, Pan & Dokmanić 2024)."""
    return _curve(stage, 2)


def deep_linear(stage: Stage) -> Prediction:
    """ÑC1 on a line in its log, the discrimination of the class means on a line (Wang et al. 2023).

    The two laws of deep linear networks; of other metrics they say nothing.
    """
    found = _curve(stage, 1)
    if not found.metrics:
        return found
    seen = [i for i, name in enumerate(stage.names) if name in stage.layers]
    values = [stage.measured[stage.names[i]].discrimination for i in seen]
    line = np.polyval(np.polyfit(seen, values, 1), np.arange(len(stage.names)))
    nothing = dict.fromkeys(stage.measured[stage.names[seen[0]]].as_dict(), math.nan)
    metrics = {
        name: CollapseMetrics(
            **nothing
            | {
                "nc1_trace": found.metrics[name].nc1_trace,
                "discrimination": float(line[stage.names.index(name)]),
            }
        )
        for name in found.metrics
    }
    spectra = {name: np.full_like(found.spectra[name], np.nan) for name in metrics}
    return Prediction(metrics, spectra, given=found.given)


def _curve(stage: Stage, degree: int) -> Prediction:
    seen = np.array([i for i, name in enumerate(stage.names) if name in stage.layers])
    if len(seen) <= degree:
        return Prediction({}, {})
    known = [stage.names[i] for i in seen]
    fields = stage.measured[known[0]].as_dict()
    values = np.array([list(stage.measured[name].as_dict().values()) for name in known])
    curves = _fitted(seen, values, len(stage.names), degree)
    shape = stage.spectra[known[0]].shape
    eigenvalues = np.array([stage.spectra[name].ravel() for name in known])
    spectra = _fitted(seen, eigenvalues, len(stage.names), degree)
    later = list(enumerate(stage.names))[1:]
    return Prediction(
        {
            n: CollapseMetrics(**dict(zip(fields, curves[i].tolist(), strict=True)))
            for i, n in later
        },
        {name: spectra[i].reshape(shape) for i, name in later},
        given=frozenset(known),
    )


def _fitted(at: NDArray[np.int64], values: Vector, count: int, degree: int) -> Vector:
    """The polynomial in the log of each column, at 0..count-1; NaN where a value is not > 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(values)
    whole = np.isfinite(logs).all(0)
    coefficients = np.polyfit(at, np.where(whole, logs, 0.0), degree)
    curves = np.exp(np.vander(np.arange(count), degree + 1) @ coefficients)
    return np.where(whole, curves, np.nan)


def deep_linear_compression(
    *, num_layers: int, samples_per_class: int, initial_scale: float, target_scale: float = 1.0
) -> float:
    """The factor (ε/s)² by which ÑC1 falls at every layer of a deep linear network.

    Weights start orthogonal times ε and are trained until they map orthonormal inputs on cY. In the
    K directions that are learned each of L weights then has the singular value s = (c√n)^(1/L), and
    ε in the others: class means grow by s a layer, deviations from them by ε. Discrimination of the
    class means then changes linearly at most. Exact where the last weight, of K rows, starts in the
    row space that it learns; otherwise the other weights grow more, and the factor is less.

    Args:
        num_layers: L >= 1.
        samples_per_class: n.
        initial_scale: ε > 0.
        target_scale: c > 0.

    Source: Wang et al. 2023, whose bounds hold for weights that are so to a tolerance.
    """
    at_least(num_layers, 1, "num_layers")
    at_least(samples_per_class, 1, "samples_per_class")
    scale = positive(initial_scale, "initial_scale")
    learned = positive(target_scale, "target_scale") * math.sqrt(samples_per_class)
    return scale**2 / learned ** (2 / num_layers)

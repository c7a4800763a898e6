"""What predicts the layers of a stage without any theory: the rivals of every theory of depth.

A predictor takes a `Stage` and returns a `Prediction`; `RIVALS` lists those that fit nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from perturb_nc import metrics as metric_functions
from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.quantities import log_ratio, top_spectrum
from perturb_nc.summary import Summarised

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Stage(Summarised):
    """Layers of one width in order of depth, measured; what predictors see.

    Attributes:
        layers: name → class statistics.
        metric: the one metric by which predictors may place a layer or scale it.
    """

    layers: dict[str, ClassStatistics]
    metric: str

    def _summary(self) -> dict[str, object]:
        return {"layers": len(self.layers), "start": self.names[0], "metric": self.metric}

    @cached_property
    def names(self) -> list[str]:
        """Of the layers, the first being where predictions start."""
        return list(self.layers)

    @property
    def is_alone(self) -> bool:
        """Whether there is no later layer to predict."""
        return len(self.layers) == 1

    @cached_property
    def measured(self) -> dict[str, CollapseMetrics]:
        """Metrics of every layer."""
        return {name: collapse_metrics(s) for name, s in self.layers.items()}

    @cached_property
    def spectra(self) -> dict[str, Vector]:
        """Largest eigenvalues of Σ_W / tr Σ_B of every layer."""
        return {name: top_spectrum(s) for name, s in self.layers.items()}

    def value(self, name: str) -> float:
        """The placing metric of a layer."""
        return float(getattr(self.measured[name], self.metric))


def stages(layers: Mapping[str, ClassStatistics], metric: str) -> list[Stage]:
    """Layers that follow each other with one width, each run of them a stage."""
    runs = groupby(layers.items(), key=lambda layer: layer[1].dim)
    return [Stage(dict(run), metric) for _, run in runs]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Summarised):
    """What a predictor says of later layers of a stage; those left out it says nothing of.

    Attributes:
        metrics, spectra: layer → predicted.
        statistics: layer → class statistics, by a predictor of those; metrics are then theirs.
        given: layers that the predictor was fitted to or told of, beyond the first and the placing
            metric of all: their errors are no predictions.
    """

    metrics: dict[str, CollapseMetrics]
    spectra: dict[str, Vector]
    statistics: dict[str, ClassStatistics] = field(default_factory=dict)
    given: frozenset[str] = frozenset()

    def _summary(self) -> dict[str, object]:
        return {"layers": [*self.metrics], "given": sorted(self.given)}

    def errors(self, stage: Stage, metric: str) -> dict[str, float]:
        """|log(predicted/measured)| of a metric, by layer; NaN where either is 0."""
        return {
            name: abs(float(log_ratio(getattr(m, metric), getattr(stage.measured[name], metric))))
            for name, m in self.metrics.items()
        }

    @classmethod
    def of(
        cls, statistics: Mapping[str, ClassStatistics], given: frozenset[str] = frozenset()
    ) -> "Prediction":
        """From predicted class statistics."""
        metrics = {name: collapse_metrics(s) for name, s in statistics.items()}
        spectra = {name: top_spectrum(s) for name, s in statistics.items()}
        return cls(metrics, spectra, dict(statistics), given)


def shrinkage(stage: Stage) -> Prediction:
    """Σ_W of the first layer times one factor, so that the placing metric is the layer's."""
    first, *later = stage.names
    start = stage.layers[first]
    now = getattr(metric_functions, stage.metric)(start)
    return Prediction.of(
        {
            name: start.moved(start.means, float(stage.value(name) / now) * start.within)
            for name in later
        }
    )


def interpolation(stage: Stage) -> Prediction:
    """Every quantity linear in its log, by layer number, between first and last, both measured."""
    first, *later = stage.names
    last = stage.names[-1]
    names = list(stage.measured[first].as_dict())
    start, end = (np.array([getattr(stage.measured[n], m) for m in names]) for n in (first, last))
    metrics, spectra = {}, {}
    for number, name in enumerate(later, start=1):
        share = number / len(later)
        values = between(start, end, share).tolist()
        metrics[name] = CollapseMetrics(**dict(zip(names, values, strict=True)))
        spectra[name] = between(stage.spectra[first], stage.spectra[last], share)
    return Prediction(metrics, spectra, given=frozenset({last}))


def between(first: Vector, last: Vector, share: float) -> Vector:
    """Linear in the log; NaN where a value is not positive at first, 0 where it is at last."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(first), np.log(last)
        return np.exp(logs[0] + share * (logs[1] - logs[0]))


def unchanged(stage: Stage) -> Prediction:
    """The layer before, as measured."""
    pairs = list(pairwise(stage.names))
    return Prediction(
        {name: stage.measured[before] for before, name in pairs},
        {name: stage.spectra[before] for before, name in pairs},
        {name: stage.layers[before] for before, name in pairs},
    )


RIVALS: dict[str, Callable[[Stage], Prediction]] = {
    "shrinkage": shrinkage,
    "interpolation": interpolation,
    "unchanged": unchanged,
}

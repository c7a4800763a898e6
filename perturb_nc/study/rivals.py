"""What predicts the layers of a stage without any theory: the rivals of every theory of depth.

A predictor takes a `Stage` and returns a `Prediction`; `RIVALS` lists those that fit nothing.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.metrics import table as metric_functions
from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.models import CrossEntropyModel
from perturb_nc.study.quantities import log_ratio, top_spectra
from perturb_nc.summary import Summarised
from perturb_nc.theory.clock import Clock

Vector = NDArray[np.float64]


@dataclass(frozen=True, eq=False, repr=False)
class Stage(Summarised):
    """Layers of one width in order of depth, measured; what predictors see.

    Attributes:
        layers: name → class statistics; of hidden layers there are none.
        metric: the one metric by which predictors may place a layer or scale it.
        joint: the first and the last layer with what binds them, where that was collected.
        values: the placing metric of all layers, where some are hidden.
        displacements: |M̃_l - M̃_0|/|M̃_L - M̃_0| of all layers, where some are hidden.
        memory: what predictors keep for other views of the same stage.
        clock: the time that predictors may take; OutOfTimeError from those that need more.
        start: the first layer under cross-entropy, for predictors with that loss; None for those
            with the squared one.
    """

    layers: dict[str, ClassStatistics]
    metric: str
    joint: JointStatistics | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    displacements: Mapping[str, float] = field(default_factory=dict)
    memory: dict[Any, Any] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    start: CrossEntropyModel | None = None

    def _summary(self) -> dict[str, object]:
        return {"layers": len(self.layers), "start": self.names[0], "metric": self.metric}

    @cached_property
    def names(self) -> list[str]:
        """Of the layers, the first being where predictions start; hidden ones too."""
        return list(self.values or self.layers)

    @property
    def is_alone(self) -> bool:
        """Whether there is no later layer to predict."""
        return len(self.names) == 1

    def hide(self, hidden: Iterable[str]) -> "Stage":
        """The stage as those see it who are to predict later layers without having seen them.

        Of those they know how many there are and where, and, to place them, one number: the placing
        metric (or the displacement of the class means, for those that place by it).
        """
        unseen = set(hidden)
        seen = {n: s for n, s in self.layers.items() if n not in unseen}
        return Stage(
            seen,
            self.metric,
            joint=None if self.names[-1] in unseen else self.joint,
            values={name: self.value(name) for name in self.names},
            displacements={name: self.displacement(name) for name in self.names},
            memory=self.memory,
            clock=self.clock,
            start=self.start,
        )

    @cached_property
    def measured(self) -> dict[str, CollapseMetrics]:
        """Metrics of every layer."""
        return {name: self._once(collapse_metrics, name) for name in self.layers}

    @cached_property
    def spectra(self) -> dict[str, Vector]:
        """Largest eigenvalues of Σ_W / tr Σ_B of every layer, in all and in the span."""
        return {name: self.spectrum(name) for name in self.layers}

    def spectrum(self, name: str) -> Vector:
        """That of one layer."""
        found: Vector = self._once(top_spectra, name)
        return found

    def _once(self, measure: Callable[[ClassStatistics], Any], name: str) -> Any:
        """What has been measured once, here or in a view, is not measured again."""
        key = measure.__name__, name
        if key not in self.memory:
            self.memory[key] = measure(self.layers[name])
        return self.memory[key]

    def value(self, name: str) -> float:
        """The placing metric of a layer."""
        if name in self.values:
            return self.values[name]
        return float(getattr(self.measured[name], self.metric))

    def displacement(self, name: str) -> float:
        """How far the centred class means of a layer are on the way to those of the last."""
        if name in self.displacements:
            return self.displacements[name]
        first, here, last = (
            self.layers[n].centered_means for n in (self.names[0], name, self.names[-1])
        )
        return float((here - first).norm() / (last - first).norm())


def stages(layers: Mapping[str, ClassStatistics], metric: str) -> list[Stage]:
    """Layers that follow each other with one width, each run of them a stage."""
    runs = groupby(layers.items(), key=lambda layer: layer[1].dim)
    return [Stage(dict(run), metric) for _, run in runs]


@dataclass(frozen=True, eq=False, repr=False)
class Prediction(Summarised):
    """What a predictor says of later layers of a stage; those left out it says nothing of.

    Attributes:
        metrics, spectra: layer → predicted; spectra as `top_spectra` gives them.
        statistics: layer → class statistics, by a predictor of those; metrics are then theirs.
        given: layers that the predictor was fitted to or told of, beyond the first and the placing
            metric of all: their errors are no predictions.
        parameters: what the fit found, by name.
    """

    metrics: dict[str, CollapseMetrics]
    spectra: dict[str, Vector]
    statistics: dict[str, ClassStatistics] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    parameters: dict[str, float] = field(default_factory=dict)

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
        cls,
        statistics: Mapping[str, ClassStatistics],
        given: frozenset[str] = frozenset(),
        **parameters: float,
    ) -> "Prediction":
        """From predicted class statistics."""
        metrics = {name: collapse_metrics(s) for name, s in statistics.items()}
        spectra = {name: top_spectra(s) for name, s in statistics.items()}
        return cls(metrics, spectra, dict(statistics), given, parameters)


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
    names = stage.names
    if names[-1] not in stage.layers:
        return Prediction({}, {})
    found = [_between(stage, names[0], names[-1], i / (len(names) - 1)) for i in range(len(names))]
    return Prediction(
        {name: metrics for name, (metrics, _) in zip(names[1:], found[1:], strict=True)},
        {name: spectrum for name, (_, spectrum) in zip(names[1:], found[1:], strict=True)},
        given=frozenset({names[-1]}),
    )


def local(stage: Stage) -> Prediction:
    """Every quantity the geometric mean of its values at the layers before and after."""
    around = {
        name: (before, after)
        for before, name, after in zip(stage.names, stage.names[1:], stage.names[2:], strict=False)
        if before in stage.layers and after in stage.layers
    }
    found = {name: _between(stage, *ends, 0.5) for name, ends in around.items()}
    return Prediction(
        {name: metrics for name, (metrics, _) in found.items()},
        {name: spectrum for name, (_, spectrum) in found.items()},
    )


def _between(stage: Stage, before: str, after: str, share: float) -> tuple[CollapseMetrics, Vector]:
    """Metrics and spectrum between those of two layers, linear in the log."""
    names = list(stage.measured[before].as_dict())
    first, last = (
        np.array([getattr(stage.measured[n], m) for m in names]) for n in (before, after)
    )
    values = between(first, last, share).tolist()
    metrics = CollapseMetrics(**dict(zip(names, values, strict=True)))
    return metrics, between(stage.spectrum(before), stage.spectrum(after), share)


def between(first: Vector, last: Vector, share: float) -> Vector:
    """Linear in the log; NaN where a value is not positive at first, 0 where it is at last."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(first), np.log(last)
        return np.exp(logs[0] + share * (logs[1] - logs[0]))


def unchanged(stage: Stage) -> Prediction:
    """The layer before, as measured."""
    pairs = [(before, name) for before, name in pairwise(stage.names) if before in stage.layers]
    return Prediction(
        {name: stage.measured[before] for before, name in pairs},
        {name: stage.spectrum(before) for before, name in pairs},
        {name: stage.layers[before] for before, name in pairs},
    )


RIVALS: dict[str, Callable[[Stage], Prediction]] = {
    "shrinkage": shrinkage,
    "interpolation": interpolation,
    "unchanged": unchanged,
}

"""One reference layer, one setting: what the model predicts, fast enough to drag a slider.

What no slider moves (metrics and spectra of the layers) is computed once. The optimum and the
central path are kept for the settings seen last: a move along the path leaves the optimum alone,
and a move of β the path. A new optimum is sought from the nearest one found before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from threading import RLock
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.metrics.within import within_spectrum
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.depth import PLACING
from perturb_nc.study.models import Layer, model_of
from perturb_nc.study.rivals import Stage, interpolation, shrinkage, stages
from perturb_nc.summary import Summarised
from perturb_nc.theory.flow.central_path import central_path_flow
from perturb_nc.theory.flow.path import FlowPath
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status
from perturb_nc.theory.vicinity.prediction import SmallVicinity
from perturb_nc.validation import nonnegative

RTOL = 1e-3  # of a path: its metrics then hold three digits, all that is shown
_KEPT = 16  # settings; each has a d×d covariance
_NEAR = 0.5  # decades between settings whose optima are good starts for each other
_SAVED = (0.1, 1.0, 10.0)  # flow times kept on the way, to go on from
Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True, eq=False, repr=False)
class LayerView(Summarised):
    """What is shown of features, measured or predicted.

    Attributes:
        metrics: all of them.
        spectrum: eigenvalues of Σ_W / tr Σ_B, decreasing, (d,); they add up to ÑC1. Infinite or
            NaN where the class means agree; none, (0,), in a first answer.
    """

    metrics: CollapseMetrics
    spectrum: Float64[Tensor, "r"]

    @classmethod
    def of(cls, statistics: ClassStatistics, weight: Tensor | None = None) -> "LayerView":
        """Metrics (NC3 for the weight) and spectrum of class statistics."""
        return cls(collapse_metrics(statistics, weight), within_spectrum(statistics))


@dataclass(frozen=True, eq=False, repr=False)
class Optimum(Summarised):
    """The optimum of (1) with its certificate in `solution`, and what is shown of it.

    Attributes:
        solution: as `minimize` gives it.
        view: metrics and spectrum of the optimal features.
        singular_values: of W*, decreasing.
    """

    solution: Solution
    view: LayerView
    singular_values: Float64[Tensor, "r"]

    @property
    def is_zero(self) -> bool:
        """Whether nothing is left of the class means; no metric is defined then."""
        return not bool(self.solution.statistics.centered_means.any())


@dataclass(frozen=True, eq=False, repr=False)
class FirstAnswer(Summarised):
    """The optimum of (1) to first order near collapse, in closed form: before it is solved for.

    Attributes:
        near: as `small_vicinity` gives it; its status says where it is not to be relied on.
        view: its metrics, without the spectrum, which takes longer than all the rest.
        singular_values: of its weight, decreasing.
    """

    near: SmallVicinity
    view: LayerView
    singular_values: Float64[Tensor, "r"]

    def _summary(self) -> dict[str, object]:
        return self.near._summary()


class Explorer:
    """Predictions after each of some measured layers; may be asked from several threads.

    Args:
        layers: name → measured class statistics, in order of depth; `LayerSamples` for
            cross-entropy.
        loss: of the optimum, "squared" or "cross-entropy"; paths have the squared loss.
        bias: whether the last layer of the optimum has a bias.
        tol: of `minimize`. At 1e-8 the objective is exact to rounding and metrics hold the digits
            that are shown; 1e-10 takes a third longer.

    Raises:
        ValueError: no layers, or layers without the samples that the loss needs.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        *,
        loss: str = "squared",
        bias: bool = False,
        tol: float = 1e-8,
    ) -> None:
        if not layers:
            raise ValueError("layers must hold at least one layer, got none")
        self.loss, self.bias, self._tol = loss, bias, tol
        self._models = {
            name: model_of(layer, loss, bias=bias, name=f"layer {name!r}")
            for name, layer in layers.items()
        }
        self.given = dict(layers)
        self.layers = {name: model.statistics for name, model in self._models.items()}
        self.measured = {name: collapse_metrics(s) for name, s in self.layers.items()}
        self._views: dict[str, LayerView] = {}
        self._rivals: dict[str, dict[str, CollapseMetrics]] = {}
        self._optima: dict[tuple[str, float, float, float], Optimum] = {}
        self._paths: dict[tuple[str, float, float], FlowPath] = {}
        self._points: dict[tuple[str, float, float, float], LayerView] = {}
        self._lock = RLock()

    def following(self, layer: str) -> str | None:
        """The name of the layer after this one, None after the last."""
        names = [*self.layers, None]
        return names[names.index(layer) + 1]

    def view(self, layer: str) -> LayerView:
        """A layer as measured; its spectrum is taken when it is first asked for."""
        if layer not in self._views:
            spectrum = within_spectrum(self._statistics(layer))
            self._views[layer] = LayerView(self.measured[layer], spectrum)
        return self._views[layer]

    def rivals(self, layer: str) -> dict[str, CollapseMetrics]:
        """Metrics that rivals predict for the layer after this one; none after the last.

        `shrinkage` is told that layer's `PLACING` metric, `interpolation` is drawn to the last
        layer of this width (and left out where that is the layer after), `unchanged` is this layer.
        The first two are for a layer of the same width.
        """
        if layer not in self._rivals:
            self._rivals[layer] = self._rivals_of(layer)
        return self._rivals[layer]

    def _rivals_of(self, layer: str) -> dict[str, CollapseMetrics]:
        following = self.following(layer)
        if following is None:
            return {}
        names = list(self.layers)
        after = {name: self.layers[name] for name in names[names.index(layer) :]}
        stage = stages(after, PLACING)[0]
        stage.memory.update({("collapse_metrics", n): self.measured[n] for n in stage.layers})
        found = {}
        if following in stage.layers:
            told = Stage({name: stage.layers[name] for name in (layer, following)}, PLACING)
            found["shrinkage"] = shrinkage(told).metrics[following]
        if following in stage.names[:-1]:
            found["interpolation"] = interpolation(stage).metrics[following]
        return {**found, "unchanged": self.measured[layer]}

    def optimum(self, layer: str, *, lambda_w: float, lambda_h: float, beta: float) -> Optimum:
        """The optimum of (1) with H0 the features of the layer.

        That of `minimize`; where the certificate does not show it to be the only one (r > 1), the
        one that is reached from an optimum nearby.

        Raises:
            ValueError: a layer that is not there, hyper-parameters out of range, statistics too
                badly scaled.
        """
        self._statistics(layer)  # raises where there is none
        problem = self._models[layer].problem(lambda_w=lambda_w, lambda_h=lambda_h, beta=beta)
        key = (layer, problem.lambda_w, problem.lambda_h, problem.beta)
        with self._lock:
            if key not in self._optima:
                solution = minimize(problem, tol=self._tol, initial_weight=self._start(key))
                view = LayerView.of(solution.statistics, solution.weight)
                values = torch.linalg.svdvals(solution.weight)
                self._optima[key] = Optimum(solution, view, values)
            return _newest(self._optima, key)

    def knows(self, layer: str, *, lambda_w: float, lambda_h: float, beta: float) -> bool:
        """Whether the optimum of this setting has been found before, and is still kept."""
        return (layer, lambda_w, lambda_h, beta) in self._optima

    def first_answer(
        self, layer: str, *, lambda_w: float, lambda_h: float, beta: float
    ) -> FirstAnswer:
        """What `optimum` will be near, without solving anything.

        Raises:
            ValueError: where there is no closed form: λ_H or β is 0, λ_W λ_H >= 1, class means with
                no nearest frame; and as `optimum`.
        """
        self._statistics(layer)  # raises where there is none
        near = self._models[layer].near(lambda_w=lambda_w, lambda_h=lambda_h, beta=beta)
        view = LayerView(near.metrics, near.weight.new_empty(0))
        return FirstAnswer(near, view, torch.linalg.svdvals(near.weight))

    def knows_path(self, layer: str, *, lambda_w: float, lambda_h: float) -> bool:
        """Whether a central path of this setting is kept, so that a time on it is found at once."""
        return (layer, lambda_w, lambda_h) in self._paths

    def _start(self, key: tuple[str, float, float, float]) -> Tensor | None:
        """The weight of the nearest optimum known, extrapolated where a drag goes on.

        None, for the start of `minimize`, if none is near, and at β = 0, where that is collapse in
        closed form.
        """
        layer, *setting = key
        if setting[-1] == 0:
            return None
        here = _place(*setting)
        known = [
            (_place(*other), optimum.solution.weight)
            for (name, *other), optimum in self._optima.items()
            if name == layer and other[-1] > 0
        ]
        known = [(place, weight) for place, weight in known if _decades(here - place) < 2 * _NEAR]
        if not known:
            return None
        place, weight = min(known, key=lambda found: _decades(here - found[0]))
        step = here - place
        if _decades(step) > _NEAR:
            return None
        for before, other in reversed(known):  # the newest first
            stride = place - before
            share = float(step @ stride) / max(float(stride @ stride), 1e-12)
            if 0 < share <= 2 and _decades(step - share * stride) < 0.1 * _decades(step):
                return weight + share * (weight - other)
        return weight

    def on_path(self, layer: str, *, lambda_w: float, lambda_h: float, time: float) -> LayerView:
        """The central path (β = 0) from the layer at a flow time, to a relative error of `RTOL`.

        Raises:
            ValueError: as `optimum`, a time out of range, or a flow that did not get there.
        """
        statistics, time = self._statistics(layer), nonnegative(time, "time")
        key = (layer, float(lambda_w), float(lambda_h))
        with self._lock:
            if (*key, time) not in self._points:
                path = self._paths.get(key)
                if path is None:
                    path = central_path_flow(
                        statistics,
                        lambda_w=lambda_w,
                        lambda_h=lambda_h,
                        times=_times(0.0, time),
                        rtol=RTOL,
                    )
                elif time > (reached := float(path.times[-1])):
                    path = path.extend(_times(reached, time))
                if path.status is not Status.FINISHED:
                    raise ValueError(f"no path to t = {time:g}: {path.status.value}")
                self._paths[key] = path
                found = path.times == time
                i = int(found.nonzero()[0]) if found.any() else None
                now = path.at(time) if i is None else path.statistics(i)
                self._points[(*key, time)] = LayerView.of(now)
                _newest(self._paths, key)
            return _newest(self._points, (*key, time))

    def _statistics(self, layer: str) -> ClassStatistics:
        if layer not in self.layers:
            raise ValueError(f"there is no layer {layer!r}; the layers are {list(self.layers)}")
        return self.layers[layer]


def _place(lambda_w: float, lambda_h: float, beta: float) -> NDArray[np.float64]:
    """A setting in coordinates in which optima change evenly, in decades."""
    return np.log10([lambda_w, lambda_h + beta, beta])


def _decades(step: NDArray[np.float64]) -> float:
    return float(np.abs(step).max())


def _times(reached: float, last: float) -> list[float]:
    """Flow times to keep between one that is reached and the last."""
    return [*(t for t in _SAVED if reached < t < last), last]


def _newest(kept: dict[Key, Value], key: Key) -> Value:
    """The value of a key, which becomes the newest; the oldest goes when there are too many."""
    value = kept[key] = kept.pop(key)
    while len(kept) > _KEPT:
        del kept[next(iter(kept))]
    return value

"""Which model a layer is put into: the loss enters here, and nowhere else in this room.

The squared loss needs the class statistics of a layer, cross-entropy its samples. A `Model` is a
layer under a loss; what varies are λ_W, λ_H and β.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from perturb_nc.layer_files import NO_SAMPLES, holds_statistics, load_layers, load_samples
from perturb_nc.layer_samples import LayerSamples
from perturb_nc.metrics.table import collapse_metrics
from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.storage import read_arrays
from perturb_nc.study.losses import OPTIONS, Options, loss_options
from perturb_nc.theory.batch import minimize_batch
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.cross_entropy.response import outcome_change
from perturb_nc.theory.cross_entropy.vicinity import cross_entropy_vicinity
from perturb_nc.theory.hyperparameter_response import hyperparameter_response
from perturb_nc.theory.isolated import weight_response
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status
from perturb_nc.theory.tangents import point_tangent
from perturb_nc.theory.vicinity.prediction import SmallVicinity, small_vicinity

Layer = ClassStatistics | LayerSamples
Setting = Mapping[str, float]
Slopes = tuple[Float64[Tensor, "3 K d"], Float64[Tensor, "3 d d"]]
NUMBERS = ("objective", "gap", "spectral_ratio", "gradient_norm", "is_global", "steps")


@dataclass(frozen=True, eq=False)
class Optima:
    """The optima of B settings.

    Attributes:
        metrics: every collapse metric, (B,) each.
        numbers: those in `NUMBERS`, (B,) each.
        singular_values: of W, (B, r).
        derivatives: metric (or "objective") → (B, 3), in the logs of λ_W, λ_H, β; NaN where there
            is none.
        status: of each.
    """

    metrics: dict[str, Tensor]
    numbers: dict[str, Tensor]
    singular_values: Float64[Tensor, "B r"]
    derivatives: dict[str, Float64[Tensor, "B 3"]]
    status: list[Status]


@runtime_checkable
class Model(Protocol):
    """A layer under a loss."""

    @property
    def layer(self) -> Layer:
        """What the model is made of."""

    @property
    def statistics(self) -> ClassStatistics:
        """Class statistics of H0."""

    def problem(self, *, lambda_w: float, lambda_h: float, beta: float) -> Any:
        """The problem at one setting, for `minimize` and all that takes its solution."""

    def near(self, *, lambda_w: float, lambda_h: float, beta: float) -> SmallVicinity:
        """The closed form near collapse at one setting."""

    def made(self, problem: Any) -> bool:
        """Whether a problem is about this very layer."""

    def rough(
        self, settings: Sequence[Setting], *, tol: float, max_steps: int, clock: Clock
    ) -> Iterator[tuple[Status, Float64[Tensor, "K d"], Float64[Tensor, "d d"]]]:
        """Status, class means and Σ_W of the optima of many settings."""

    def slopes(self, solution: Any) -> Slopes:
        """Derivatives of class means and Σ_W of an optimum in λ_W, λ_H and β."""

    def optima(self, settings: Sequence[Setting], *, tol: float, clock: Clock) -> Optima:
        """What a map shows of many settings."""


@dataclass(frozen=True, eq=False)
class SquaredModel:
    """The squared loss: class statistics are enough, and settings are solved in batches."""

    layer: ClassStatistics
    bias: bool = False

    @classmethod
    def of(cls, layer: Layer, bias: bool, name: str, options: Options) -> "SquaredModel":
        """From class statistics, or from those of samples."""
        statistics = statistics_of(layer)
        check_full(statistics, name)
        return cls(statistics, bias)

    @staticmethod
    def read(path: Path, labels_key: str) -> dict[str, Layer]:
        """The layers of a file of class statistics."""
        return dict(load_layers(path))

    @property
    def statistics(self) -> ClassStatistics:
        """Of H0."""
        return self.layer

    def problem(self, *, lambda_w: float, lambda_h: float, beta: float) -> NearCollapseProblem:
        """Problem (1)."""
        return NearCollapseProblem(
            self.layer, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, bias=self.bias
        )

    def near(self, *, lambda_w: float, lambda_h: float, beta: float) -> SmallVicinity:
        """From class statistics."""
        return small_vicinity(
            self.layer, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, bias=self.bias
        )

    def made(self, problem: Any) -> bool:
        """By its statistics."""
        return getattr(problem, "statistics", None) is self.layer

    def rough(
        self, settings: Sequence[Setting], *, tol: float, max_steps: int, clock: Clock
    ) -> Iterator[tuple[Status, Float64[Tensor, "K d"], Float64[Tensor, "d d"]]]:
        """In one batch."""
        found = minimize_batch(
            self.layer,
            **_columns(settings),
            bias=self.bias,
            tol=tol,
            max_steps=max_steps,
            time_limit=clock.left(),
        )
        for i, setting in enumerate(settings):
            point = self.problem(**setting).at(found.weight(i))
            yield found.status[i], point.means, point.within

    def slopes(self, solution: Solution) -> Slopes:
        """By the tangents of (1), all three at once."""
        own = solution.problem.regularization.as_tensor(solution.weight)
        units = torch.diag(torch.ones_like(own))
        weight, settings = solution.weight.repeat(3, 1, 1), own.repeat(3, 1)
        point = ReducedPoint(self.layer, weight, settings, self.bias)
        slope, _ = weight_response(point, units)
        moved = point_tangent(point, slope, units)
        return moved.means, moved.within

    def optima(self, settings: Sequence[Setting], *, tol: float, clock: Clock) -> Optima:
        """In one batch."""
        batch = minimize_batch(
            self.layer, **_columns(settings), bias=self.bias, tol=tol, time_limit=clock.left()
        )
        derivatives = {
            name: torch.stack([slopes[p] for p in HYPERPARAMETERS], dim=1)
            for name, slopes in batch.derivatives().items()
        }
        numbers = {name: getattr(batch, name) for name in NUMBERS}
        return Optima(batch.metrics, numbers, batch.singular_values, derivatives, batch.status)


@dataclass(frozen=True, eq=False)
class CrossEntropyModel:
    """Cross-entropy: samples are needed, and settings are solved one after the other."""

    layer: LayerSamples
    bias: bool = False
    options: Options = field(default_factory=dict)

    @classmethod
    def of(cls, layer: Layer, bias: bool, name: str, options: Options) -> "CrossEntropyModel":
        """From samples; ValueError for class statistics, or weights that are not one a class."""
        if not isinstance(layer, LayerSamples):
            raise ValueError(f"{name} {NO_SAMPLES}")
        weights, k = options.get("class_weights"), layer.num_classes
        if weights is not None and len(weights) != k:
            raise ValueError(
                f"class_weights of the loss must be {k}, one a class of {name}, got {len(weights)}"
            )
        return cls(layer, bias, options)

    @staticmethod
    def read(path: Path, labels_key: str) -> dict[str, Layer]:
        """The samples kept in a file of class statistics, or a file of features and labels."""
        if holds_statistics(path):
            return dict(load_samples(path))
        arrays = read_arrays(path)
        labels = arrays.pop(labels_key, None)
        if labels is None or not arrays:
            raise ValueError(
                f"{path} must hold the features of layers and their labels, as {labels_key!r}, for "
                f"the loss cross-entropy; got arrays {sorted(read_arrays(path))}"
            )
        return {name: LayerSamples(x, labels) for name, x in arrays.items()}

    @property
    def statistics(self) -> ClassStatistics:
        """Of H0."""
        return self.layer.statistics

    def problem(self, *, lambda_w: float, lambda_h: float, beta: float) -> CrossEntropyProblem:
        """The problem with cross-entropy."""
        x, y = self.layer.features, self.layer.labels
        given: dict[str, Any] = {**self.options, "bias": self.bias}
        return CrossEntropyProblem(x, y, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, **given)

    def near(self, *, lambda_w: float, lambda_h: float, beta: float) -> SmallVicinity:
        """From the covariances of its classes."""
        problem = self.problem(lambda_w=lambda_w, lambda_h=lambda_h, beta=beta)
        return cross_entropy_vicinity(problem)

    def made(self, problem: Any) -> bool:
        """By its samples and its loss."""
        if not isinstance(problem, CrossEntropyProblem):
            return False
        defaults: Options = {"label_smoothing": 0.0, "class_weights": None}
        given = {name: getattr(problem, name) for name in OPTIONS}
        same = given == {**defaults, **self.options}
        return same and torch.equal(problem.features, self.layer.features.double())

    def rough(
        self, settings: Sequence[Setting], *, tol: float, max_steps: int, clock: Clock
    ) -> Iterator[tuple[Status, Float64[Tensor, "K d"], Float64[Tensor, "d d"]]]:
        """One by one."""
        for setting in settings:
            problem: Any = self.problem(**setting)
            found = minimize(problem, tol=tol, max_steps=max_steps, time_limit=clock.left())
            yield found.status, found.statistics.means, found.statistics.within

    def slopes(self, solution: Any) -> Slopes:
        """By the response of the optimum."""
        change = outcome_change(solution)
        assert isinstance(change.within, Tensor)
        return change.means, change.within

    def optima(self, settings: Sequence[Setting], *, tol: float, clock: Clock) -> Optima:
        """One by one; what the clock leaves no time for has the status TIME_LIMIT."""
        found: list[tuple[dict[str, float], dict[str, list[float]]]] = []
        numbers: list[dict[str, Any]] = []
        values, status = [], []
        for setting in settings:
            problem: Any = self.problem(**setting)
            solution = minimize(problem, tol=tol, time_limit=clock.left())
            certificate = solution.certificate
            known = vars(solution) | vars(certificate)
            numbers.append({name: known[name] for name in NUMBERS})
            metrics = collapse_metrics(solution.statistics, solution.weight).as_dict()
            found.append((metrics, _logarithmic(solution, metrics)))
            values.append(torch.linalg.svdvals(solution.weight))
            status.append(solution.status)
        like = values[0]
        return Optima(
            metrics={m: like.new_tensor([own[m] for own, _ in found]) for m in found[0][0]},
            numbers={n: torch.from_numpy(np.array([own[n] for own in numbers])) for n in NUMBERS},
            singular_values=torch.stack(values),
            derivatives={m: like.new_tensor([own[m] for _, own in found]) for m in found[0][1]},
            status=status,
        )


def _logarithmic(solution: Any, metrics: Mapping[str, float]) -> dict[str, list[float]]:
    """Derivatives of metrics and objective in the logs of the parameters; NaN where none are."""
    names = (*metrics, "objective")
    try:
        response = hyperparameter_response(solution)
    except (ValueError, LinAlgError):  # not converged, β = 0, a continuum of optima
        return {name: [math.nan] * len(HYPERPARAMETERS) for name in names}
    sizes = {p: getattr(solution.problem, p) for p in HYPERPARAMETERS}
    slopes = {p: {**response.metrics[p], "objective": response.objective[p]} for p in sizes}
    return {name: [sizes[p] * slopes[p][name] for p in sizes] for name in names}


_MODELS: dict[str, type[SquaredModel] | type[CrossEntropyModel]] = {
    "squared": SquaredModel,
    "cross-entropy": CrossEntropyModel,
}


def model_of(layer: Layer, loss: str, *, bias: bool = False, name: str = "the layer") -> Model:
    """The model of a layer under a loss.

    Args:
        layer: class statistics, or samples (of which the squared loss takes the statistics).
        loss: one of LOSSES, or cross-entropy as the network had it in training, such as
            "cross-entropy:label_smoothing=0.1,class_weights=1/2/0.5" (one weight a class).
        bias: whether the last layer has a bias.
        name: of the layer, for messages.

    Raises:
        ValueError: an unknown loss, or a layer without samples for a loss that needs them.
    """
    kind, options = loss_options(loss)
    return _MODELS[kind].of(layer, bias, name, options)


def read_layers(path: Path, loss: str, *, labels_key: str = "labels") -> dict[str, Layer]:
    """What a loss needs of the layers in a file.

    Args:
        path: class statistics; for cross-entropy with samples kept beside them, or else the
            features of layers, (N, d) each, and their labels (.npz, .pt or .safetensors).
        loss: one of LOSSES.
        labels_key: name of the labels among arrays of features.

    Raises:
        FileNotFoundError, ValueError: no such file, or one that does not hold what is needed.
    """
    return _MODELS[loss_options(loss)[0]].read(path, labels_key)


def statistics_of(layer: Layer) -> ClassStatistics:
    """Class statistics of a layer."""
    return layer.statistics if isinstance(layer, LayerSamples) else layer


def _columns(settings: Sequence[Setting]) -> dict[str, Any]:
    return {name: [setting[name] for setting in settings] for name in HYPERPARAMETERS}

"""Predicted beside measured, layer by layer."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.study.models import Layer, model_of
from perturb_nc.summary import Summarised
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.vicinity.prediction import SmallVicinity
from perturb_nc.validation import ArrayLike


@dataclass(frozen=True, eq=False, repr=False)
class LayerPrediction(Summarised):
    """One layer: what was measured, and the near-collapse model with its features as H0.

    Attributes:
        measured: metrics of the layer itself.
        solution: the optimum that the model puts after the layer, with its certificate.
    """

    measured: CollapseMetrics
    solution: Solution

    @property
    def predicted(self) -> CollapseMetrics:
        """Metrics of the optimum H* and W*."""
        return self.solution.metrics

    def _summary(self) -> dict[str, object]:
        names = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
        sides = {"measured": self.measured, "predicted": self.predicted}
        metrics = {f"{side}_{n}": getattr(m, n) for side, m in sides.items() for n in names}
        status, certificate = self.solution.status, str(self.solution.certificate)
        return metrics | {"status": status, "certificate": certificate}

    def as_dict(self) -> dict[str, object]:
        """Plain values: metrics, objective, certificate and status."""
        certificate = self.solution.certificate
        return {
            "method": "exact",
            "measured": self.measured.as_dict(),
            "predicted": self.predicted.as_dict(),
            "objective": self.solution.objective,
            "spectral_ratio": certificate.spectral_ratio,
            "lower_bound": certificate.lower_bound,
            "gap": certificate.gap,
            "is_global": certificate.is_global,
            "gradient_norm": self.solution.gradient_norm,
            "status": self.solution.status.name,
        }


@dataclass(frozen=True, eq=False)
class NearPrediction:
    """One layer: what was measured, and the closed form near collapse with its features as H0.

    Attributes:
        measured: metrics of the layer itself.
        solution: what the model makes of it to first order in the distance from collapse; its
            status says where this is too far.
    """

    measured: CollapseMetrics
    solution: SmallVicinity

    @property
    def predicted(self) -> CollapseMetrics:
        """Metrics of the prediction."""
        return self.solution.metrics

    def as_dict(self) -> dict[str, object]:
        """Plain values: metrics, remainder, certificate and status."""
        found = self.solution
        return {
            "method": "vicinity",
            "measured": self.measured.as_dict(),
            "predicted": self.predicted.as_dict(),
            "distance": found.distance,
            "remainder": found.remainder,
            "is_small": found.is_small,
            **asdict(found.certificate),
            "status": found.status.name,
        }


def predict_layers(
    layers: Mapping[str, Layer],
    *,
    lambda_w: float,
    lambda_h: float,
    beta: float,
    loss: str = "squared",
    bias: bool = False,
    weights: Mapping[str, ArrayLike] | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> dict[str, LayerPrediction]:
    """Solve the model with each layer as the reference features H0 of the one that follows.

    Args:
        layers: name → measured class statistics, in order; for cross-entropy `LayerSamples`.
        lambda_w, lambda_h, beta, bias: as in NearCollapseProblem, the same for every layer.
        loss: "squared" or "cross-entropy".
        weights: name → weight that reads the layer, for the measured NC3 metrics.
        time_limit: seconds, of all layers; solutions not finished by then have status TIME_LIMIT.
        progress: called as progress(layers, of how many) after every layer.

    Raises:
        ValueError: bad hyper-parameters, a weight that does not fit its layer, or layers without
            the samples that the loss needs.
    """
    weights, clock = weights or {}, Clock.of(time_limit, progress)
    models = {n: model_of(x, loss, bias=bias, name=f"layer {n!r}") for n, x in layers.items()}
    strengths = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    problems = {name: model.problem(**strengths) for name, model in models.items()}
    measured = {
        name: collapse_metrics(model.statistics, weights.get(name))
        for name, model in models.items()
    }
    predictions = {}
    for name, problem in problems.items():
        solution = minimize(problem, time_limit=clock.left())
        predictions[name] = LayerPrediction(measured[name], solution)
        clock.report(len(predictions), len(problems))
    return predictions


def predict_near_collapse(
    layers: Mapping[str, Layer],
    *,
    lambda_w: float,
    lambda_h: float,
    beta: float,
    loss: str = "squared",
    bias: bool = False,
) -> dict[str, NearPrediction]:
    """`predict_layers` in closed form, for layers near collapse.

    Raises:
        ValueError: as `predict_layers`, or a layer that has no nearest collapsed frame.
    """
    models = {n: model_of(x, loss, bias=bias, name=f"layer {n!r}") for n, x in layers.items()}
    found = {}
    for name, model in models.items():
        try:
            near = model.near(lambda_w=lambda_w, lambda_h=lambda_h, beta=beta)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        found[name] = NearPrediction(collapse_metrics(model.statistics), near)
    return found

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
        solution: what the model puts after the layer, with its certificate: the optimum, or the
            closed form near collapse, whose status says where the layer is too far for it.
    """

    measured: CollapseMetrics
    solution: Solution | SmallVicinity

    @property
    def predicted(self) -> CollapseMetrics:
        """Metrics of the features and weight that the model puts after the layer."""
        return self.solution.metrics

    def _summary(self) -> dict[str, object]:
        names = ("nc1_trace", "nc1", "nc2_etf", "cdnv")
        sides = {"measured": self.measured, "predicted": self.predicted}
        metrics = {f"{side}_{n}": getattr(m, n) for side, m in sides.items() for n in names}
        status, certificate = self.solution.status, str(self.solution.certificate)
        return metrics | {"status": status, "certificate": certificate}

    def as_dict(self) -> dict[str, object]:
        """Plain values: metrics, what the method says of itself, certificate and status."""
        found = self.solution
        near = isinstance(found, SmallVicinity)
        own = ["distance", "remainder", "is_small"] if near else ["objective", "gradient_norm"]
        return {
            "method": "vicinity" if near else "exact",
            "measured": self.measured.as_dict(),
            "predicted": self.predicted.as_dict(),
            **{name: getattr(found, name) for name in own},
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
    method: str = "exact",
    weights: Mapping[str, ArrayLike] | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> dict[str, LayerPrediction]:
    """Solve the model with each layer as the reference features H0 of the one that follows.

    Args:
        layers: name → measured class statistics, in order; for cross-entropy `LayerSamples`.
        lambda_w, lambda_h, beta, bias: as in NearCollapseProblem, the same for every layer.
        loss: "squared" or "cross-entropy".
        method: "exact", `minimize`; or "vicinity", the closed form for layers near collapse
            (`small_vicinity`, `theory.cross_entropy_vicinity`).
        weights: name → weight that reads the layer, for the measured NC3 metrics.
        time_limit: seconds, of all layers; solutions not finished by then have status TIME_LIMIT.
        progress: called as progress(layers, of how many) after every layer.

    Raises:
        ValueError: bad hyper-parameters, a weight that does not fit its layer, or layers without
            the samples that the loss needs; for "vicinity" a layer without a nearest frame.
    """
    if method not in ("exact", "vicinity"):
        raise ValueError(f"method must be 'exact' or 'vicinity', got {method!r}")
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
        if method == "exact":
            found: Solution | SmallVicinity = minimize(problem, time_limit=clock.left())
        else:
            try:
                found = models[name].near(**strengths)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        predictions[name] = LayerPrediction(measured[name], found)
        clock.report(len(predictions), len(problems))
    return predictions

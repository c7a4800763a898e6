"""The small vicinity of collapse, drawn on axes."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from perturb_nc.metrics.table import collapse_metrics
from perturb_nc.show.labels import LABELS, SIDES
from perturb_nc.show.panels import ALONG, AxesArray, drawn, legend, panels
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.vicinity.prediction import SmallVicinity
from perturb_nc.validation import instance

_MEASURED, _PREDICTED = SIDES["measured"], SIDES["optimum"]


def plot_vicinity(
    vicinity: SmallVicinity | Sequence[SmallVicinity],
    *,
    metrics: Sequence[str] = ALONG,
    ax: Any = None,
) -> AxesArray:
    """What the model makes of features near collapse: metrics of H0, and as predicted.

    Over the one parameter in which several predictions differ (or β, for one); filled where the
    remainder is small, open where the status says that the features are too far from collapse. The
    bars are the estimated relative remainder of Σ_W, on metrics that scale with it.

    Args:
        vicinity: of `small_vicinity`, one or several of one layer.
        metrics: names of fields of `CollapseMetrics`, an axes each.
        ax: one axes for each of `metrics`; by default those of a new figure.

    Raises:
        ValueError: no prediction, predictions of several layers or that differ in two parameters.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> found = [
        ...     pnc.small_vicinity(statistics, lambda_w=0.05, lambda_h=0.05, beta=beta)
        ...     for beta in (0.5, 5.0)
        ... ]
        >>> (axis,) = pnc.plot_vicinity(found, metrics=["nc1"])
        >>> axis.get_xscale()
        'log'

    See Also:
        small_vicinity: what it takes.
    """
    found = [vicinity] if isinstance(vicinity, SmallVicinity) else list(vicinity)
    for each in found:
        instance(each, SmallVicinity, "vicinity", "small_vicinity gives one")
    parameter = _varied(found)
    found.sort(key=lambda each: getattr(each.problem, parameter))
    places = [getattr(each.problem, parameter) for each in found]
    before = collapse_metrics(found[0].problem.statistics)
    axes = panels(metrics, ax)
    look = drawn(_PREDICTED)
    for axis, metric in zip(axes, metrics, strict=True):
        values = np.array([getattr(each.metrics, metric) for each in found])
        reference = getattr(before, metric)
        axis.axhline(reference, color=_MEASURED.light, lw=1.2, label="reference features")
        axis.plot(places, values, **(look | {"marker": ""}))
        if metric in ("nc1_trace", "nc1", "nc1_span", "cdnv"):
            errors = values * [each.remainder["within"] for each in found]
            axis.errorbar(places, values, errors, fmt="none", ecolor=_PREDICTED.light, lw=1)
        for small, fill, said in ((True, None, "predicted"), (False, "white", "too far to trust")):
            at = [i for i, each in enumerate(found) if each.is_small is small]
            if at:
                dots = look | {"ls": "", "mfc": fill or _PREDICTED.light}
                axis.plot(np.array(places)[at], values[at], **dots, label=said)
        axis.set_xscale("log")
        axis.set_xlabel(LABELS[parameter].title)
    return legend(axes)


def _varied(found: Sequence[SmallVicinity]) -> str:
    """The parameter that is not the same in all."""
    if not found:
        raise ValueError("vicinity must hold at least one prediction, got none")
    if any(each.problem.statistics is not found[0].problem.statistics for each in found):
        raise ValueError("vicinity must hold predictions for one layer, got several layers")
    values = {n: {getattr(each.problem, n) for each in found} for n in HYPERPARAMETERS}
    varied = [name for name, different in values.items() if len(different) > 1]
    if len(varied) > 1:
        raise ValueError(f"vicinity must differ in one parameter, got {', '.join(varied)}")
    return varied[0] if varied else "beta"

"""Spectra and the small vicinity of collapse, drawn on axes."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from perturb_nc.metrics import collapse_metrics
from perturb_nc.moments import Moments
from perturb_nc.show.labels import LABELS, SIDES, literal
from perturb_nc.show.panels import ALONG, AxesArray, drawn, legend, panels, style
from perturb_nc.theory.cross_entropy.collapse import CrossEntropySpectrum
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.spectrum import NearCollapseSpectrum
from perturb_nc.theory.vicinity.prediction import SmallVicinity
from perturb_nc.validation import instance
from perturb_nc.within_metrics import within_spectrum

_LARGEST = 20  # eigenvalues of features that are drawn
Spectrum = NearCollapseSpectrum | CrossEntropySpectrum
_MEASURED, _PREDICTED = SIDES["measured"], SIDES["optimum"]


def plot_spectrum(
    spectrum: Spectrum | Moments | Mapping[str, Moments] | xr.Dataset,
    *,
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Eigenvalues of the response by kind of perturbation, or of Σ_W / tr Σ_B by rank.

    Args:
        spectrum: of `near_collapse_spectrum` or `cross_entropy_spectrum`: each eigenvalue with its
            multiplicity. Or class statistics, of one layer or name → layer, the first twenty
            eigenvalues of Σ_W / tr Σ_B; or a comparison of `compare_layers`, measured and
            predicted for one layer.
        layer: of a comparison; the last by default.
        ax: to draw on; by default that of a new figure.

    Raises:
        ValueError: a layer that the comparison does not hold.
    """
    kinds = (NearCollapseSpectrum, CrossEntropySpectrum, Moments, Mapping, xr.Dataset)
    instance(spectrum, kinds, "spectrum", "near_collapse_spectrum or compare_layers gives one")
    (axis,) = panels(["top_eigenvalues"], ax)
    if isinstance(spectrum, Spectrum):
        _draw_response(axis, spectrum)
        return axis
    if isinstance(spectrum, xr.Dataset):
        lines = _compared(spectrum, layer)
    else:
        layers = {"": spectrum} if isinstance(spectrum, Moments) else dict(spectrum)
        styles = cycle(drawn(side) for name, side in SIDES.items() if name != "optimum")
        lines = [(name, within_spectrum(s).tolist(), next(styles)) for name, s in layers.items()]
    for name, values, look in lines:
        shown = np.asarray(values[:_LARGEST])
        shown = np.where(shown > 0, shown, np.nan)
        axis.plot(range(1, len(shown) + 1), shown, **look, label=literal(name))
    axis.set_yscale("log")
    axis.set_xlabel("rank of the eigenvalue")
    if any(name for name, *_ in lines):
        axis.legend(frameon=False, fontsize=8)
    return axis


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


def _draw_response(axis: Axes, spectrum: Spectrum) -> None:
    style(axis, r"eigenvalues of the response $F$")
    places = range(len(spectrum.names))
    axis.hlines(places, 0, spectrum.eigenvalues, color=_PREDICTED.light, lw=1.2)
    axis.plot(spectrum.eigenvalues, places, **(drawn(_PREDICTED) | {"ls": ""}))
    for place, value in zip(places, spectrum.eigenvalues, strict=True):
        note: dict[str, Any] = {"xytext": (6, 5), "textcoords": "offset points", "fontsize": 8}
        axis.annotate(f"{value:.3g}", (value, place), **note)
    names = zip(spectrum.names, spectrum.multiplicities, strict=True)
    axis.set_yticks(places, [f"{name} (×{count})" for name, count in names], fontsize=8)
    axis.set_ylim(len(places) - 0.5, -0.7)
    axis.set_xlim(0, 1.2)
    axis.set_xlabel("eigenvalue")


def _compared(comparison: xr.Dataset, layer: str | None) -> list[tuple[str, Any, dict[str, Any]]]:
    names = comparison["layer"].values.tolist()
    chosen = names[-1] if layer is None else layer
    if chosen not in names:
        raise ValueError(f"layer must be one of {', '.join(names)}, got {chosen!r}")
    lines = [("measured", comparison["spectrum"].sel(layer=chosen).values, drawn(_MEASURED))]
    for model in comparison["model"].values.tolist():
        values = comparison["predicted_spectrum"].sel(layer=chosen, model=model).values
        if np.isfinite(values).any():
            lines.append((model, values, drawn(SIDES[model])))
    return lines


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

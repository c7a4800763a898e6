"""Spectra and the small vicinity of collapse, drawn on axes."""

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from perturb_nc.metrics.within import within_spectrum
from perturb_nc.moments import Moments
from perturb_nc.show.labels import SIDES, literal
from perturb_nc.show.panels import drawn, panels, style
from perturb_nc.theory.cross_entropy.collapse import CrossEntropySpectrum
from perturb_nc.theory.spectrum import NearCollapseSpectrum
from perturb_nc.validation import instance

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

    Example:
        >>> sizes = {"num_classes": 4, "dim": 6, "samples_per_class": 5}
        >>> spectrum = pnc.near_collapse_spectrum(**sizes, lambda_w=0.04, lambda_h=0.01, beta=1.0)
        >>> axis = pnc.plot_spectrum(spectrum)
        >>> [text.get_text() for text in axis.texts]
        ['0.667', '0.99', '1', '0.962']

    See Also:
        near_collapse_spectrum, compare_layers: what it takes.
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

"""Small figures below the tables that results show in a notebook.

Once it is imported (`import perturb_nc.show.notebook`, or `%load_ext perturb_nc.show.notebook`)
paths, calibrations, spectra and vicinities are drawn where a cell ends with one.
"""

import base64
import io
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

from perturb_nc.show.plots import plot_comparison, plot_path
from perturb_nc.show.spectra import plot_spectrum
from perturb_nc.show.vicinity import plot_vicinity
from perturb_nc.study.depth import DepthCalibration
from perturb_nc.summary import picture
from perturb_nc.theory.cross_entropy.collapse import CrossEntropySpectrum
from perturb_nc.theory.flow.cascade import Cascade
from perturb_nc.theory.flow.path import FlowPath
from perturb_nc.theory.spectrum import NearCollapseSpectrum
from perturb_nc.theory.vicinity.prediction import SmallVicinity

_SHOWN = ("nc1_trace", "nc1", "nc2_etf")


def load_ipython_extension(ipython: Any) -> None:
    """Nothing to do: the import has registered the figures."""


def _image(plot: Callable[..., Any], result: Any, **options: Any) -> str:
    """The plot as an SVG image, whose text cannot become HTML."""
    count = len(options.get("metrics", [""]))
    figure = Figure(figsize=(3.2 * max(count, 2), 2.6), layout="constrained")
    axes = figure.subplots(1, count)
    plot(result, ax=axes, **options)
    page = io.BytesIO()
    figure.savefig(page, format="svg")
    data = base64.b64encode(page.getvalue()).decode()
    name = type(result).__name__
    return f'<img alt="{name}, drawn" src="data:image/svg+xml;base64,{data}"/>'


@picture.register
def _path(result: FlowPath | Cascade) -> str:
    return _image(plot_path, result, metrics=_SHOWN)


@picture.register
def _calibration(result: DepthCalibration) -> str:
    return _image(plot_comparison, result, metrics=_SHOWN)


@picture.register
def _spectrum(result: NearCollapseSpectrum | CrossEntropySpectrum) -> str:
    return _image(plot_spectrum, result)


@picture.register
def _vicinity(result: SmallVicinity) -> str:
    return _image(plot_vicinity, result, metrics=_SHOWN)

"""The spectrum within classes: the section of one layer's eigenvalues at a time."""

import plotly.graph_objects as go
import xarray as xr

from perturb_nc.show.labels import number
from perturb_nc.show.report.drawing import (
    DRAWN,
    any_known,
    layers_of,
    layout,
    line,
    plain,
    positive_of,
)
from perturb_nc.show.report.parts import Figure, Part, Section, Text
from perturb_nc.show.report.words import MODELS


def section(comparison: xr.Dataset) -> Section:
    """The figure, and what it shows."""
    figure = spectrum_figure(comparison)
    said = "The slider moves through the layers; eigenvalues are of Σ_W / tr Σ_B, largest first."
    parts: list[Part] = [Text(said), figure] if figure else [Text("No spectrum is known.")]
    return Section("spectrum", "In which directions features scatter", parts)


def spectrum_figure(comparison: xr.Dataset) -> Figure | None:
    """Leading eigenvalues of Σ_W / tr Σ_B of one layer; a slider moves through the layers."""
    index, found = comparison["index"].values.tolist(), {}
    for name in layers_of(comparison):
        at = comparison.sel(layer=name)
        sides = {"measured": positive_of(at["spectrum"])}
        sides |= {m: positive_of(at["predicted_spectrum"].sel(model=m)) for m in MODELS}
        if any(map(any_known, sides.values())):
            found[name] = sides
    shown = [side for side in DRAWN if any(any_known(sides[side]) for sides in found.values())]
    if not found:
        return None
    frames, views = [], {}
    for name, sides in found.items():
        frames.append(go.Frame(data=[go.Scatter(y=sides[side]) for side in shown]))
        first = [f"{number(v[0])} {side}" for side, v in sides.items() if v[0] == v[0]]
        views[name] = f"{name}: the largest eigenvalue is {', '.join(first) or 'not known'}."
    base = [line(DRAWN.index(side), side, [], x=index) for side in shown]
    title = "eigenvalue of Σ<sub>W</sub> / tr Σ<sub>B</sub>"
    figure = plain(base, layout("index, largest first", title, log=True), frames)
    columns = {"layer": "view", "series": "series", "index": "point", "eigenvalue": "y"}
    title = "Spectrum of the within-class covariance"
    return Figure("spectrum", title, figure, views, columns, index, "range")

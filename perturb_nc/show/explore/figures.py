"""What `perturb-nc explore` shows of a move: plotly figures as plain dictionaries, and words.

Nothing is computed here. Colours of text and grid are the style sheet's, so that figures follow the
light or dark scheme of the browser; those of the traces are legible on both.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from torch import Tensor

from perturb_nc.metrics.table import CollapseMetrics
from perturb_nc.show.labels import LABELS, SIDES, number, short_names
from perturb_nc.study.explorer import FirstAnswer, LayerView, Optimum
from perturb_nc.theory.status import Status

METRICS = {name: LABELS[name] for name in ("nc1", "nc1_trace", "nc1_span", "cdnv", "nc2_etf")}
MEASURED, NEXT, PREDICTED, PATH = (
    SIDES[side].both for side in ("measured", "interpolation", "optimum", "path")
)
Figure = dict[str, Any]
_NAME, _TICKS = 14, 10  # letters of a layer, layers that are named, below an axis
_TITLE = 40  # letters above a figure


def metric_figure(
    metric: str,
    measured: Mapping[str, CollapseMetrics],
    layer: str,
    optimum: LayerView | None,
    path: LayerView | None,
    name: str = "optimum",
) -> Figure:
    """A metric at every layer; after the reference layer, what is predicted, and the path."""
    names = list(measured)
    place = names.index(layer)
    values = [_positive(getattr(metrics, metric)) for metrics in measured.values()]
    traces = [
        _trace("measured", range(len(names)), values, MEASURED, mode="lines+markers"),
        _trace("reference", [place], [values[place]], MEASURED, size=13, symbol="circle-open"),
    ]
    for side, view, color, symbol in (
        (name, optimum, PREDICTED, "diamond"),
        ("path", path, PATH, "x"),
    ):
        if view is not None:
            value = _positive(getattr(view.metrics, metric))
            ends = [values[place], value]
            dotted = {"color": color, "width": 1, "dash": "dot"}
            traces.append(
                _trace(side, [place, place + 1], ends, color, mode="lines+markers", symbol=symbol)
                | {
                    "line": dotted,
                    "marker": {"color": color, "symbol": symbol, "size": [0, 10], "opacity": 1},
                }
            )
    short = short_names(names, _NAME)
    after = [*short, "(next)"] if place + 1 == len(names) else short
    step = -(-len(after) // _TICKS)
    axis = {
        "tickvals": list(range(0, len(after), step)),
        "ticktext": [escape(name) for name in after[::step]],  # plotly knows links and markup
        "range": [-0.4, len(after) - 0.6],
    }
    if len(after) > 4:
        axis["tickangle"] = -60
    line = METRICS[metric].line
    title = line if len(line) <= _TITLE else METRICS[metric].symbol
    return _figure(traces, title, x=axis, y=_log_axis(traces), legend=False)


def spectrum_figure(spectra: Mapping[str, tuple[LayerView, str]]) -> Figure:
    """Eigenvalues of Σ_W / tr Σ_B, decreasing, for each name with its view and colour."""
    traces = []
    for name, (view, color) in spectra.items():
        if not len(view.spectrum):
            continue
        values = [_positive(v) for v in view.spectrum.tolist()]
        traces.append(_trace(escape(name), range(1, len(values) + 1), values, color, mode="lines"))
    logs = [math.log10(v) for t in traces for v in t["y"] if v is not None] or [0.0]
    # Six decades at most: below lie directions in which nothing varies, and rounding.
    limits = [max(min(logs), max(logs) - 6) - 0.1, max(logs) + 0.1]
    lowest = limits[0] + 0.1 * (limits[1] - limits[0])  # not where the other axis has its first
    y = {**_ticks(lowest, max(logs)), "range": limits}
    x = {"type": "log", "title": {"text": "rank", "standoff": 4}, "dtick": 1}
    return _figure(traces, "Eigenvalues of Σ_W / tr Σ_B", x=x, y=y)


def weight_figure(values: Tensor | None) -> Figure:
    """Singular values of W at the optimum."""
    found = [] if values is None else values.tolist()
    bars = {
        "type": "bar",
        "name": "optimum",
        "x": list(range(1, len(found) + 1)),
        "y": found,
        "marker": {"color": PREDICTED},
    }
    axis = {"dtick": -(-len(found) // 10) or 1, "title": {"text": "rank"}}
    y = {"rangemode": "tozero"}
    return _figure([bars], "Singular values of W at the optimum", x=axis, y=y, legend=False)


def numbers(
    columns: Mapping[str, LayerView | None],
) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Heads, and a label with one cell for each column, of the table of all metrics."""
    rows = [
        (
            label.symbol,
            ["–" if v is None else number(getattr(v.metrics, name), 4) for v in columns.values()],
        )
        for name, label in METRICS.items()
    ]
    return ["metric", *columns], rows


def proof(optimum: Optimum) -> str:
    """The certificate in a sentence."""
    c, objective = optimum.solution.certificate, optimum.solution.objective
    if c.is_global and c.spectral_ratio < 1:
        return f"Proved: this is the only global optimum (r = {c.spectral_ratio:.4g} < 1)."
    if c.is_global:
        return f"Proved: this is a global optimum (r = {c.spectral_ratio:.4g}, no gap)."
    return (
        f"Not proved to be the global optimum (r = {c.spectral_ratio:.4g}), whose objective is at "
        f"most {c.gap:.2g} ({c.gap / objective:.2g} of this one's) lower."
    )


def promise(first: FirstAnswer) -> str:
    """What a first answer is, in a sentence."""
    near = first.near
    kind = "near enough to collapse for it" if near.is_small else "too far from collapse for it"
    return (
        "First order in the distance from collapse, in closed form; the exact optimum follows. "
        f"This layer is {kind} (distance {near.distance:.2g}, remainder "
        f"{max(near.remainder.values()):.2g})."
    )


def facts(found: Optimum | FirstAnswer) -> list[tuple[str, str]]:
    """Certificate, objective and how the minimisation ended, as name and value."""
    if isinstance(found, FirstAnswer):
        c = found.near.certificate
        return [
            ("r, spectral ratio", f"{c.spectral_ratio:.6g}"),
            ("gap", f"{max(c.gap, 0.0):.2g}"),
            ("distance from collapse", f"{found.near.distance:.3g}"),
            *((f"remainder of {part}", f"{v:.2g}") for part, v in found.near.remainder.items()),
            ("status", found.near.status.value),
        ]
    solution = found.solution
    c = solution.certificate
    return [
        ("r, spectral ratio", f"{c.spectral_ratio:.6g}"),
        ("is_global", "yes" if c.is_global else "not proved"),
        ("gap", f"{max(c.gap, 0.0):.2g}"),  # rounding may be below 0
        ("objective", f"{solution.objective:.8g}"),
        ("status", solution.status.value),
        ("Newton steps", str(solution.steps)),
        ("gradient norm", f"{solution.gradient_norm:.1e}"),
    ]


def remarks(optimum: Optimum) -> list[str]:
    """What to know about this optimum before its numbers are read."""
    problem, said = optimum.solution.problem, []
    if optimum.is_zero:
        size = problem.lambda_w * problem.lambda_h
        said.append(
            f"The optimum is zero: at β = 0 and λ_W λ_H = {size:.3g} ≥ 1 weight and features "
            "collapse to 0, and no metric is defined there. Lower λ_W or λ_H, or raise β."
        )
    elif problem.beta == 0:
        said.append(
            "At β = 0 the optimum is exactly collapsed, Σ_W = 0, whatever the reference: its "
            "zeros have no place on a logarithmic axis."
        )
    if optimum.solution.status is not Status.CONVERGED:
        said.append(f"The minimisation ended early: {optimum.solution.status.value}.")
    return said


def _trace(
    name: str,
    x: Sequence[float] | range,
    y: Sequence[float | None],
    color: str,
    *,
    mode: str = "markers",
    size: int = 7,
    symbol: str = "circle",
) -> Figure:
    marker = {"color": color, "size": size, "symbol": symbol}
    line = {"color": color, "width": 2}
    hover = "%{y:.4g}"
    return {
        "type": "scatter", "name": name, "x": list(x), "y": list(y), "mode": mode,
        "marker": marker, "line": line, "hovertemplate": hover,
    }  # fmt: skip


def _figure(
    traces: list[Figure], title: str, *, x: Figure, y: Figure, legend: bool = True
) -> Figure:
    clear = "rgba(0,0,0,0)"
    layout = {
        "title": {"text": title, "font": {"size": 14}, "x": 0.02, "xanchor": "left"},
        "xaxis": {"automargin": True, "zeroline": False, **x},
        "yaxis": {"automargin": True, "zeroline": False, "exponentformat": "power", **y},
        "paper_bgcolor": clear,
        "plot_bgcolor": clear,
        "margin": {"l": 48, "r": 12, "t": 40, "b": 56 if legend else 40},
        "showlegend": legend,
        "legend": {"orientation": "h", "y": -0.32, "bgcolor": clear},
        "uirevision": title,
    }
    return {"data": traces, "layout": layout}


def _log_axis(traces: list[Figure]) -> Figure:
    """With four ticks, on values of two digits: decades alone are too few for most layers."""
    logs = [math.log10(v) for trace in traces for v in trace["y"] if v is not None]
    if not logs:
        return {"type": "log"}
    return _ticks(min(logs), max(logs))


def _ticks(low: float, high: float) -> Figure:
    ticks = sorted({float(f"{10 ** (low + i / 3 * (high - low)):.2g}") for i in range(4)})
    return {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _positive(value: float) -> float | None:
    """A number that a logarithmic axis has a place for, to six digits; None otherwise."""
    return float(f"{value:.6g}") if 0 < value < math.inf else None

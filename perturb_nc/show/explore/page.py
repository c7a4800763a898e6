"""The page of `perturb-nc explore`: sliders that move the prediction, the solver in the loop.

In the browser `assets/explore.js` sends a move when the one before is answered, and then
the newest: a slow machine skips positions of a slider and does not fall behind it. A move is
answered at once, in closed form near collapse, and exactly when the sliders rest.
"""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State, dcc, html
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but not in __all__

from perturb_nc.show.explore import figures
from perturb_nc.show.explore.guard import MOVES, guard
from perturb_nc.study.explorer import Explorer, FirstAnswer, LayerView, Optimum
from perturb_nc.study.models import LOSSES, Layer

_ASSETS = Path(__file__).parent / "assets"
_PER_DECADE = 20
_NONE = (ValueError, ArithmeticError, LinAlgError)


@dataclass(frozen=True)
class Scale:
    """The stops of a slider: even in the log, and 0 before the first where that has a meaning."""

    label: str
    first: int
    last: int
    initial: float
    zero: bool = False

    @property
    def values(self) -> list[float]:
        """The value at every stop."""
        count = _PER_DECADE * (self.last - self.first)
        stops = [10 ** (self.first + i / _PER_DECADE) for i in range(count + 1)]
        return [0.0, *stops] if self.zero else stops

    @property
    def start(self) -> int:
        """The stop nearest to the initial value."""
        logs = [abs(math.log(v / self.initial)) if v else math.inf for v in self.values]
        return logs.index(min(logs))


SCALES = {
    "lambda_w": Scale("λ_W, decay of the weight", -4, 1, 0.05),
    "lambda_h": Scale("λ_H, decay of the features", -4, 1, 0.005, zero=True),
    "beta": Scale("β, pull to the reference (1/β: complexity)", -2, 3, 2.0, zero=True),
    "time": Scale("t, flow time on the central path", -2, 2, 0.5, zero=True),
}
Answer = tuple[Any, ...]


def build_app(
    layers: Mapping[str, Layer],
    *,
    title: str,
    loss: str = "squared",
    bias: bool = False,
    said: Sequence[str] = (),
) -> dash.Dash:
    """The Dash application for some measured layers; everything it needs is served by itself.

    Args:
        layers: name → class statistics, in order of depth; `LayerSamples` for cross-entropy.
        title: said at the head of the page.
        loss, bias: of the optimum, as for `Explorer`.
        said: lines below it, on the network.
    """
    explorer = Explorer(layers, loss=loss, bias=bias)
    app = dash.Dash(
        __name__,
        title=f"{title} · perturb-nc",
        update_title="",  # no change of title while a move is computed
        assets_folder=str(_ASSETS),
        serve_locally=True,
        compress=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    app.layout = _layout(explorer, title, said)
    sliders = [Input(name, "value") for name in SCALES]
    app.clientside_callback(
        ClientsideFunction("explore", "label"), *sliders, State("texts", "data")
    )
    app.clientside_callback(
        ClientsideFunction("explore", "move"),
        Input("layer", "value"),
        *sliders,
        Input("answered", "data"),
    )
    panels = [Output(f"figure-{metric}", "figure") for metric in figures.METRICS]
    panels += [Output("figure-spectrum", "figure"), Output("figure-weight", "figure")]
    words = [Output(name, "children") for name in ("proof", "facts", "remarks", "numbers", "speed")]

    @app.callback(*panels, *words, Output("answered", "data"), Input("asked", "data"))
    def answer(asked: dict[str, Any] | None) -> Answer:
        """Everything that a move changes; `asked` has the layer, the stops and a number.

        And whether the answer is to be exact, or is to come at once: the page asks again then.
        """
        if asked is None:
            raise dash.exceptions.PreventUpdate
        with app.server.config[MOVES]:
            begin = time.perf_counter()
            found = predicted(explorer, asked["layer"], asked["stops"], exact=asked["exact"])
            panels = shown(explorer, asked["layer"], found)
            speed = f"This move: {1e3 * (time.perf_counter() - begin):.0f} ms"
        return (*panels, speed, {"number": asked["number"], "exact": found.is_final})

    guard(app, explorer.layers, {name: len(scale.values) for name, scale in SCALES.items()})
    return app


@dataclass(frozen=True)
class Predicted:
    """What is predicted after a layer at the stops of the sliders.

    Attributes:
        optimum: exact, or a first answer; None where there is none.
        path: on the central path; None where there is none, or it is left for later.
        said: what to know of them.
        is_final: whether nothing is left for later.
    """

    optimum: Optimum | FirstAnswer | None
    path: LayerView | None
    said: list[str]
    is_final: bool


def predicted(
    explorer: Explorer, layer: str, stops: Mapping[str, int], *, exact: bool = True
) -> Predicted:
    """The predictions after a layer; not exact ones are those that come at once.

    At once come the closed form near collapse, an optimum that is known, and a place on a path that
    is known. Where there is no closed form, all is exact.
    """
    at = {name: scale.values[int(stops[name])] for name, scale in SCALES.items()}
    decay = {name: at[name] for name in ("lambda_w", "lambda_h")}
    setting = {**decay, "beta": at["beta"]}
    if not exact and not explorer.knows(layer, **setting):
        try:
            first = explorer.first_answer(layer, **setting)
        except _NONE:
            pass  # the exact one says why, if there is none either
        else:
            known = explorer.knows_path(layer, **decay)
            path = explorer.on_path(layer, **decay, time=at["time"]) if known else None
            return Predicted(first, path, [], False)
    said: list[str] = []
    optimum: Optimum | None = None
    path = None
    try:
        optimum = explorer.optimum(layer, **setting)
        said += figures.remarks(optimum)
    except _NONE as error:
        said.append(f"No optimum here: {error}.")
    try:
        path = explorer.on_path(layer, **decay, time=at["time"])
    except _NONE as error:
        said.append(f"No central path here: {error}.")
    return Predicted(optimum, path, said, True)


def shown(explorer: Explorer, layer: str, found: Predicted) -> Answer:
    """The figures and the words for what is predicted after a layer."""
    optimum, path = found.optimum, found.path
    view = None if optimum is None else optimum.view
    name, words = "optimum", ""
    if isinstance(optimum, FirstAnswer):
        name, words = "first order", figures.promise(optimum)
    elif optimum is not None:
        words = figures.proof(optimum)
    following = explorer.following(layer)
    own = {f"{layer}, measured": (explorer.measured[layer], figures.MEASURED)}
    if following is not None:
        own[f"{following}, measured"] = (explorer.measured[following], figures.NEXT)
    views = {**own, name: (view, figures.PREDICTED), "path": (path, figures.PATH)}
    known = {name: (v, color) for name, (v, color) in views.items() if v is not None}
    return (
        *(
            figures.metric_figure(metric, explorer.measured, layer, view, path, name)
            for metric in figures.METRICS
        ),
        figures.spectrum_figure(known),
        figures.weight_figure(None if optimum is None else optimum.singular_values),
        words,
        [] if optimum is None else _terms(figures.facts(optimum)),
        [html.P(text) for text in found.said],
        _table(*figures.numbers({name: v for name, (v, _) in views.items()})),
    )


def _terms(pairs: list[tuple[str, str]]) -> list[Any]:
    return [html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs]


def _table(heads: list[str], rows: list[tuple[str, list[str]]]) -> list[Any]:
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in heads]))
    body = [
        html.Tr([html.Th(label, scope="row"), *(html.Td(cell) for cell in cells)])
        for label, cells in rows
    ]
    return [head, html.Tbody(body)]


def _layout(explorer: Explorer, title: str, said: Sequence[str]) -> html.Div:
    names = list(explorer.layers)
    first = explorer.layers[names[0]]
    size = f"{len(names)} layers, K = {first.num_classes} classes, N = {first.num_samples:,}"
    if explorer.loss != LOSSES[0]:
        size += f"; the optimum is that of {explorer.loss}, the path that of the squared loss"
    metrics = [_panel(metric, label.line) for metric, label in figures.METRICS.items()]
    proof = [html.P(id="proof"), html.Dl(id="facts"), html.P(id="speed")]
    compared = [
        html.Div(html.Table(id="numbers"), className="wide", tabIndex=0),
        html.P(_KEY, className="key"),
        html.Div(metrics, className="panels"),
    ]
    spectra = [
        _panel("spectrum", "Eigenvalues of the within-class covariance"),
        _panel("weight", "Singular values of the weight"),
    ]
    return html.Div(
        [
            html.Header([html.H1(title), html.P(size), *map(html.P, said)]),
            html.Main(
                [
                    _controls(names),
                    html.Div(id="remarks", role="alert"),
                    _section("Certificate of the optimum", *proof),
                    _section("Measured and predicted", *compared),
                    _section("Spectra", html.Div(spectra, className="panels large")),
                ]
            ),
            dcc.Store(
                id="texts", data={n: [f"{v:.3g}" for v in s.values] for n, s in SCALES.items()}
            ),
            dcc.Store(id="asked"),
            dcc.Store(id="answered", data={"number": 0, "exact": True}),
        ],
        id="page",
    )


def _section(title: str, *parts: Any) -> html.Section:
    return html.Section([html.H2(title), *parts])


_KEY: list[Any] = [
    html.Span("measured", className="measured"),
    html.Span(
        "optimum of the near-collapse model (first order while you drag)", className="optimum"
    ),
    html.Span("central path at t (β = 0)", className="path"),
    "both predictions start from the reference layer (ringed) and stand at the layer after it",
]


def _panel(name: str, label: str) -> html.Div:
    graph = dcc.Graph(
        id=f"figure-{name}",
        config={"displayModeBar": False, "responsive": True},
    )
    named: dict[str, Any] = {"aria-label": label}
    return html.Div(graph, role="figure", className="panel", **named)


def _controls(names: list[str]) -> html.Form:
    reference = dcc.Dropdown(
        names, names[0], id="layer", clearable=False, searchable=False, maxHeight=320
    )
    rows = [
        html.Div(
            [html.Label("Reference layer", id="layer-label", htmlFor="layer"), reference],
            className="field",
        )
    ]
    for name, scale in SCALES.items():
        last = len(scale.values) - 1
        # A native range: arrow, page, home and end keys, touch and screen readers come with it.
        slider = dcc.Input(
            id=name, type="range", min=0, max=last, step=1, value=scale.start, debounce=False
        )
        value = html.Span(id=f"{name}-value", className="value")
        rows.append(
            html.Div([html.Label(scale.label, htmlFor=name), value, slider], className="field")
        )
    return html.Form(rows, id="controls")

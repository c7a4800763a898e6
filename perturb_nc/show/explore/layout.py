"""The elements of the explorer's page."""

import json
from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from perturb_nc.show.explore import figures
from perturb_nc.show.explore.scales import SCALES
from perturb_nc.show.labels import LABELS
from perturb_nc.study.depth import PLACING
from perturb_nc.study.explorer import Explorer
from perturb_nc.study.losses import LOSSES


def terms(pairs: list[tuple[str, str]]) -> list[Any]:
    """Names and values."""
    return [html.Div([html.Dt(name), html.Dd(value)]) for name, value in pairs]


def table(heads: list[str], rows: list[tuple[str, list[str]]]) -> list[Any]:
    """Head and body of a table; nothing without rows."""
    if not rows:
        return []
    head = html.Thead(html.Tr([html.Th(text, scope="col") for text in heads]))
    body = [
        html.Tr([html.Th(label, scope="row"), *(html.Td(cell) for cell in cells)])
        for label, cells in rows
    ]
    return [head, html.Tbody(body)]


def layout(explorer: Explorer, title: str, said: Sequence[str]) -> html.Div:
    """The page of an explorer."""
    names = list(explorer.layers)
    first = explorer.layers[names[0]]
    size = f"{len(names)} layers, K = {first.num_classes} classes, N = {first.num_samples:,}"
    if explorer.loss != LOSSES[0]:
        size += f"; the optimum is that of {explorer.loss}, the path that of the squared loss"
    metrics = [_panel(metric, label.line) for metric, label in figures.METRICS.items()]
    proof = [
        html.P(id="proof"), html.P(id="sensitivity"), html.Dl(id="facts"), html.P(id="speed"),
    ]  # fmt: skip
    compared = [
        html.Div(html.Table(id="numbers"), className="wide"),
        html.P(_ERROR, className="key"),
        html.Div(html.Table(id="errors"), className="wide"),
        html.P(_KEY, className="key"),
        html.Div(metrics, className="panels"),
    ]
    spectra = [
        _panel("spectrum", "Eigenvalues of the within-class covariance"),
        _panel("weight", "Singular values of the weight"),
    ]
    return html.Div(
        [
            html.Header([html.H1(title), html.P(size), html.P("; ".join(said))]),
            html.Div(id="sign", role="status"),
            html.Main(
                [
                    _controls(names),
                    html.Div(id="remarks", role="alert"),
                    _section("Certificate of the optimum", *proof),
                    _section("Measured and predicted", *compared),
                    _section("Spectra", html.Div(spectra, className="panels large")),
                    _section(
                        "The same in Python and on the command line",
                        html.Pre(id="code", tabIndex=0),
                        html.Button("Data (CSV)", id="data", type="button"),
                    ),
                ]
            ),
            dcc.Store(
                id="texts", data={n: [f"{v:.3g}" for v in s.values] for n, s in SCALES.items()}
            ),
            html.Div(json.dumps(names), id="names", hidden=True),  # as the address may name them
            dcc.Store(id="asked"),
            dcc.Store(id="answered", data={"number": 0, "exact": True}),
        ],
        id="page",
    )


def _section(title: str, *parts: Any) -> html.Section:
    return html.Section([html.H2(title), *parts])


_ERROR = (
    "|log(predicted/measured)| at the layer after, 0.1 being 10 %. Optimum and path: at your "
    f"sliders. Rivals: shrinkage of Σ_W, told {LABELS[PLACING].symbol} of that layer; "
    "interpolation in the log to the last layer of this width; the reference layer unchanged"
)
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
    rows: list[Any] = [
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
        short, _, rest = scale.label.partition(" ")
        # On a phone the rest is heard alone.
        label = html.Label([short, html.Span(f" {rest}", className="rest")], htmlFor=name)
        rows.append(html.Div([label, value, slider], className="field"))
    rows.append(html.Button("Fit the layer after", id="fit", type="button"))
    return html.Form(rows, id="controls")

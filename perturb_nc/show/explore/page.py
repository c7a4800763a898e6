"""The page of `perturb-nc explore`: sliders that move the prediction, the solver in the loop.

In the browser `assets/explore.js` sends a move when the one before is answered, and then
the newest: a slow machine skips positions of a slider and does not fall behind it. A move is
answered at once, in closed form near collapse, and exactly when the sliders rest.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import dash
from dash import ClientsideFunction, Input, Output, State, html
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but not in __all__

from perturb_nc.show.explore import answers, figures
from perturb_nc.show.explore.guard import MOVES, guard
from perturb_nc.show.explore.layout import layout, table, terms
from perturb_nc.show.explore.scales import SCALES, setting_at
from perturb_nc.show.labels import short_names, symbol
from perturb_nc.study.explorer import Explorer, FirstAnswer, LayerView, Optimum
from perturb_nc.study.models import Layer

_ASSETS = Path(__file__).parent / "assets"
_NONE = (ValueError, ArithmeticError, LinAlgError)


WORDS = ("proof", "facts", "remarks", "numbers", "errors", "sensitivity", "code", "speed")
Answer = tuple[Any, ...]
_NAME = 16  # letters of a layer in a table


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
        said: sentences below it, on the network.
    """
    explorer = Explorer(layers, loss=loss, bias=bias)
    app = dash.Dash(
        __name__,
        title=f"{escape(title)} · perturb-nc",  # dash writes it into the page as it is
        update_title="",  # no change of title while a move is computed
        assets_folder=str(_ASSETS),
        serve_locally=True,
        compress=False,
        meta_tags=[{"name": "viewport", "content": "width=device-width, initial-scale=1"}],
    )
    app.index_string = app.index_string.replace("<html>", '<html lang="en">')
    app.layout = layout(explorer, title, said)
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
    words = [Output(name, "children") for name in WORDS]

    @app.callback(*panels, *words, Output("answered", "data"), Input("asked", "data"))
    def answer(asked: dict[str, Any] | None) -> Answer:
        """Everything that a move changes; `asked` has the layer, the stops and a number.

        And whether the answer is to be exact, or is to come at once: the page asks again then; and
        whether the sliders are to move to what fits the layer after.
        """
        if asked is None:
            raise dash.exceptions.PreventUpdate
        with app.server.config[MOVES]:
            return _answer(explorer, title, asked)

    guard(app, explorer.layers, {name: len(scale.values) for name, scale in SCALES.items()})
    return app


def _answer(explorer: Explorer, title: str, asked: Mapping[str, Any]) -> Answer:
    begin = time.perf_counter()
    layer, stops = asked["layer"], asked["stops"]
    told: list[str] = []
    if asked["fit"]:
        stops, told = fitting_stops(explorer, layer, stops)
    found = predicted(explorer, layer, stops, exact=asked["exact"])
    panels = shown(explorer, layer, replace(found, said=[*told, *found.said]))
    code = answers.code(title, layer, *setting_at(stops))
    speed = f"This move: {1e3 * (time.perf_counter() - begin):.0f} ms"
    answered = {"number": asked["number"], "exact": found.is_final, "stops": stops}
    return (*panels, code, speed, answered)


def fitting_stops(
    explorer: Explorer, layer: str, stops: Mapping[str, int]
) -> tuple[dict[str, int], list[str]]:
    """The stops nearest to the setting that fits the layer after best, and what to say of it."""
    try:
        found = answers.fitted(explorer, layer)
    except _NONE as error:
        return dict(stops), [f"No fit here: {error}."]
    moved = {name: SCALES[name].nearest(value) for name, value in found.items()}
    said = ", ".join(f"{symbol(name)} = {value:.3g}" for name, value in found.items())
    return {**stops, **moved}, [f"The layer after this one is fitted best by {said}."]


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
    setting, time = setting_at(stops)
    decay = {name: setting[name] for name in ("lambda_w", "lambda_h")}
    if not exact and not explorer.knows(layer, **setting):
        try:
            first = explorer.first_answer(layer, **setting)
        except _NONE:
            pass  # the exact one says why, if there is none either
        else:
            known = explorer.knows_path(layer, **decay)
            path = explorer.on_path(layer, **decay, time=time) if known else None
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
        path = explorer.on_path(layer, **decay, time=time)
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
    names = list(explorer.layers)
    short = dict(zip(names, short_names(names, _NAME), strict=True))
    own = {f"{short[layer]}, measured": (explorer.view(layer), figures.MEASURED)}
    if following is not None:
        own[f"{short[following]}, measured"] = (explorer.view(following), figures.NEXT)
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
        [] if optimum is None else terms(figures.facts(optimum)),
        [html.P(text) for text in found.said],
        table(*figures.numbers({name: v for name, (v, _) in views.items()})),
        table(*answers.errors(explorer, layer, {name: view, "path": path})),
        answers.sensitivity(optimum) if isinstance(optimum, Optimum) else "",
    )

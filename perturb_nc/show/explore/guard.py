"""What may reach the page's callback: moves that the page itself could have sent, one at a time."""

import math
from collections.abc import Callable, Collection, Mapping
from threading import Lock
from typing import Any

import dash
from flask import Response, request

_MOST_BYTES = 65536
_PATH = "/_dash-update-component"
MOVES = "PERTURB_NC_MOVES"  # in the configuration of the server: the lock held by a move


def guard(app: dash.Dash, layers: Collection[str], stops: Mapping[str, int]) -> None:
    """Answer 400 to a post that is no move, 413 to one that is too long, before Dash sees it.

    Args:
        layers: names of the layers.
        stops: name → number of stops of a slider.
    """
    app.server.config["MAX_CONTENT_LENGTH"] = _MOST_BYTES
    app.server.config[MOVES] = Lock()
    app.server.before_request(_refusing(app, layers, stops))


def _refusing(
    app: dash.Dash, layers: Collection[str], stops: Mapping[str, int]
) -> Callable[[], Response | None]:
    def refuse() -> Response | None:
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return None
        if (request.content_length or _MOST_BYTES + 1) > _MOST_BYTES:
            return Response("too long\n", 413)
        try:
            body: Any = request.get_json(silent=True)
        except RecursionError:  # of json: brackets in brackets
            body = None
        if request.path == _PATH and _is_request(body, app):
            asked = body["inputs"][0].get("value")
            if asked is None or _is_move(asked, layers, stops):
                return None
        return Response("no move of this page\n", 400)

    return refuse


def _is_request(body: Any, app: dash.Dash) -> bool:
    """Whether it asks for the one callback, all of its outputs, from its one input."""
    if not isinstance(body, dict) or set(body) - {"parsedChangedPropsIds", "state"} != _KEYS:
        return False
    output, inputs = body["output"], body["inputs"]
    if not isinstance(output, str) or not app.callback_map.get(output, {}).get("callback"):
        return False
    parts = (part.rsplit(".", 1) for part in output.strip(".").split("..."))
    wanted = [{"id": name, "property": kind} for name, kind in parts]
    return (
        body["outputs"] == wanted
        and body["changedPropIds"] in ([], ["asked.data"])
        and body.get("state", []) == []
        and body.get("parsedChangedPropsIds", ["asked"]) in ([], ["asked"], ["asked.data"])
        and isinstance(inputs, list)
        and len(inputs) == 1
        and isinstance(inputs[0], dict)
        and {**inputs[0], "value": None} == {"id": "asked", "property": "data", "value": None}
    )


_KEYS = {"output", "outputs", "inputs", "changedPropIds"}


def _is_move(asked: Any, layers: Collection[str], stops: Mapping[str, int]) -> bool:
    return (
        isinstance(asked, dict)
        and set(asked) == {"number", "layer", "stops", "exact", "fit"}
        and type(asked["exact"]) is bool
        and type(asked["fit"]) is bool
        and type(asked["number"]) in (int, float)
        and math.isfinite(asked["number"])
        and isinstance(asked["layer"], str)
        and asked["layer"] in layers
        and isinstance(asked["stops"], dict)
        and set(asked["stops"]) == set(stops)
        and all(
            type(value) is int and 0 <= value < stops[name]
            for name, value in asked["stops"].items()
        )
    )

"""The explorer of a small network, as users see it."""

import pytest
from problems import random_problem

import perturb_nc as pnc

pytest.importorskip("dash", reason="needs the extra `explore`")
from perturb_nc.show.explore.page import predicted
from perturb_nc.show.explore.page import shown as shown_of
from perturb_nc.show.explore.scales import SCALES

START = {name: scale.start for name, scale in SCALES.items()}


def network(dim):
    dense = random_problem(seed=1, counts=(40, 60, 50), dim=dim)
    start = pnc.ClassStatistics.from_features(0.15 * dense.reference.mT, dense.labels)
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.0, times=[1.0, 3.0])
    return {"one": start, "two": path.statistics(0), "three": path.statistics(1)}


def texts(component):
    """All the text under a Dash component."""
    if isinstance(component, list | tuple):
        return " ".join(texts(part) for part in component)
    if isinstance(component, str):
        return component
    return texts(getattr(component, "children", None) or [])


def shown(explorer, layer, stops, *, exact=True):
    return shown_of(explorer, layer, predicted(explorer, layer, stops, exact=exact))


def request(app, asked):
    """The body of the request that the page makes for a move."""
    (output,) = (key for key in app.callback_map if "figure-nc1.figure" in key)
    outputs = [
        dict(zip(("id", "property"), part.rsplit(".", 1), strict=True))
        for part in output.strip(".").split("...")
    ]
    change = {"id": "asked", "property": "data", "value": asked}
    return {
        "output": output, "outputs": outputs, "inputs": [change], "changedPropIds": ["asked.data"],
    }  # fmt: skip

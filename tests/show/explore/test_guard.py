import json
import random

import pytest
from explored import START, network, request

from perturb_nc.show.explore.page import build_app


@pytest.fixture(scope="module")
def layers():
    return network(12)


@pytest.mark.filterwarnings("error")
def test_posts_that_are_no_moves_are_refused(layers):
    app = build_app(layers, title="net")
    client, where = app.server.test_client(), "/_dash-update-component"
    good = request(app, {"number": 7, "layer": "two", "stops": START, "exact": True, "fit": False})
    rng, junk = random.Random(0), [None, -1, 10**9, "x", [], {}, [[1]], True, 1e400, "\u2028", 0.5]

    def spots(value, path=()):
        yield path
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items if isinstance(value, dict | list) else ():
            yield from (
                spots(item, (*path, key)) if isinstance(item, dict | list) else [(*path, key)]
            )

    places = list(spots(good))[1:]
    for _ in range(200):
        bad = json.loads(json.dumps(good))
        *above, last = rng.choice(places)
        part = bad
        for key in above:
            part = part[key]
        if rng.random() < 0.3:
            del part[last]
        else:
            part[last] = rng.choice(junk)
        answer = client.post(where, json=bad)
        assert answer.status_code in (200, 204, 400), bad
    for body in (b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000):
        assert client.post(where, data=body, content_type="application/json").status_code in (
            400,
            413,
        )
    assert client.post(where, data=b"x" * 10**6).status_code == 413
    assert client.post("/other", json=good).status_code == 400
    assert client.post(where, json=good).status_code == 200

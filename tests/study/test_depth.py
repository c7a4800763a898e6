import math

import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study.depth import COMPARED

LAMBDA_W, TIMES = 0.1, {"b": 0.4, "c": 1.0, "d": 2.5}


@pytest.fixture(scope="module")
def layers():
    """Layers that do lie on a path, each seen in a basis and on a scale of... its own basis."""
    start = random_problem(seed=1, dim=8, num_classes=3, counts=(9, 5, 7)).reduced.statistics
    path = pnc.central_path_flow(
        start, lambda_w=LAMBDA_W, lambda_h=0.0, times=list(TIMES.values()), rtol=1e-9
    )
    found = {"a": start}
    generator = torch.Generator().manual_seed(0)
    for i, name in enumerate(TIMES):
        s = path.statistics(i)
        q = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
        within = q @ s.within @ q.mT
        found[name] = s.moved(s.means @ q.mT, 0.5 * (within + within.mT))
    return found


@pytest.mark.parametrize("metric", ["nc1_trace", "nc1_span", "nc1", "cdnv"])
def test_finds_the_times_of_layers_that_lie_on_the_path(layers, metric):
    c = pnc.calibrate_depth(layers, lambda_w=LAMBDA_W, metric=metric, rtol=1e-9)
    assert c.start == "a"
    assert c.times == pytest.approx(TIMES, rel=1e-5)
    for other in COMPARED:
        assert max(c.errors(metric=other).values()) < 1e-5
    # The rivals are fitted to the same data and are not exact.
    assert min(c.errors("shrinkage", metric="nc2_etf").values()) > 1e-3
    assert max(c.errors("interpolation", metric="nc1").values()) > 1e-2


def test_a_one_percent_mutation_is_seen(layers):
    c = pnc.calibrate_depth(layers, lambda_w=1.01 * LAMBDA_W, rtol=1e-9)
    assert max(c.errors(metric="nc1").values()) > 1e-4


def test_fits_the_decay_from_some_layers_and_predicts_the_others(layers):
    c = pnc.calibrate_depth(layers, metric="nc1_trace", fit=["c"], rtol=1e-7)
    assert c.lambda_w == pytest.approx(LAMBDA_W, rel=5e-2)
    assert max(c.errors(metric="nc1", layers=["b", "d"]).values()) < 1e-2


def test_starts_from_any_layer(layers):
    c = pnc.calibrate_depth(layers, lambda_w=LAMBDA_W, start="b", rtol=1e-9)
    assert list(c.times) == ["c", "d"]
    assert c.times["c"] == pytest.approx(TIMES["c"] - TIMES["b"], rel=1e-5)


def test_layers_that_the_path_does_not_come_by_are_named_not_guessed(layers):
    above = layers["a"].moved(layers["a"].means, 1.5 * layers["a"].within)
    shuffled = {"a": layers["a"], "above": above, "c": layers["c"]}
    c = pnc.calibrate_depth(shuffled, lambda_w=LAMBDA_W)
    assert math.isnan(c.times["above"])
    assert c.placed == ["c"]
    assert list(c.predicted["path"]) == ["c"]
    assert list(c.predicted["shrinkage"]) == ["above", "c"]


def test_rivals_are_what_they_say(layers):
    c = pnc.calibrate_depth(layers, lambda_w=LAMBDA_W, metric="nc1_trace")
    a = pnc.collapse_metrics(layers["a"])
    for name in TIMES:
        share = c.measured[name].nc1_trace / a.nc1_trace
        assert c.predicted["shrinkage"][name].nc1 == pytest.approx(share * a.nc1)
        assert c.predicted["shrinkage"][name].nc2_etf == pytest.approx(a.nc2_etf)
    halfway = np.sqrt(a.nc1 ** (4 / 3) * c.measured["d"].nc1 ** (2 / 3))
    assert c.predicted["interpolation"]["b"].nc1 == pytest.approx(halfway)
    assert c.predicted["interpolation"]["d"].nc1 == pytest.approx(c.measured["d"].nc1)


def test_two_classes():
    start = random_problem(seed=2, dim=6, num_classes=2).reduced.statistics
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.0, times=[0.5, 1.0])
    layers = {"a": start, "b": path.statistics(0), "c": path.statistics(1)}
    c = pnc.calibrate_depth(layers, rtol=1e-5)
    assert max(c.errors(metric="nc1").values()) < 0.05
    assert all(math.isnan(e) for e in c.errors(metric="nc2_equiangular").values())


def test_bad_arguments_are_named(layers):
    narrow = random_problem(seed=1, dim=5, num_classes=3).reduced.statistics
    for arguments, message in [
        (({"a": layers["a"]},), "at least two from start on"),
        (({**layers, "n": narrow},), r"'a' has \(3, 8\), 'n' \(3, 5\); pass layers of equal"),
    ]:
        with pytest.raises(ValueError, match=message):
            pnc.calibrate_depth(*arguments, lambda_w=0.1)
    for keywords, message in [
        (
            {"metric": "nc2_etf"},
            "metric must be one of nc1_trace, nc1_span, nc1, cdnv, got 'nc2_etf'",
        ),
        ({"start": "z"}, "there is no layer 'z'"),
        ({"start": "d"}, "at least two from start on"),
        ({"fit": ["a"]}, "fit must name layers after 'a'"),
        ({"lambda_h": -1.0}, "lambda_h must be >= 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            pnc.calibrate_depth(layers, **{"lambda_w": 0.1, **keywords})

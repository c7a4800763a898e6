import math

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
    assert (c.status, c.at_bound) == (pnc.Status.CONVERGED, {})
    for other in COMPARED:
        assert max(c.path.errors(c.stage, other).values()) < 1e-5
    # The rivals are fitted to the same data and are not exact.
    assert min(c.predictions["shrinkage"].errors(c.stage, "nc2_etf").values()) > 1e-3
    assert max(c.predictions["interpolation"].errors(c.stage, "nc1").values()) > 1e-2


def test_a_one_percent_mutation_is_seen(layers):
    c = pnc.calibrate_depth(layers, lambda_w=1.01 * LAMBDA_W, metric="nc1_trace", rtol=1e-9)
    assert max(c.path.errors(c.stage, "nc1").values()) > 1e-4


def test_fits_the_decay_from_some_layers_and_predicts_the_others(layers):
    c = pnc.calibrate_depth(layers, metric="nc1_trace", fit=["c"], rtol=1e-7)
    assert c.lambda_w == pytest.approx(LAMBDA_W, rel=5e-2)
    assert c.path.given == {"c"}
    errors = c.path.errors(c.stage, "nc1")
    assert max(errors[name] for name in ("b", "d")) < 1e-2


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
    assert c.status is pnc.Status.CONVERGED
    assert list(c.path.metrics) == ["c"]
    assert list(c.predictions["shrinkage"].metrics) == ["above", "c"]


@pytest.mark.parametrize("lambda_w", [None, LAMBDA_W])
def test_no_layer_placed_is_no_fit(layers, lambda_w):
    """It used to return the value that the fit of λ_W starts from."""
    a = layers["a"]
    rising = {"a": a} | {f"{f}": a.moved(a.means, f * a.within) for f in (1.2, 1.5)}
    c = pnc.calibrate_depth(rising, lambda_w=lambda_w)
    assert c.status is pnc.Status.NOT_PLACED
    assert math.isnan(c.lambda_w) == (lambda_w is None)
    assert all(math.isnan(time) for time in c.times.values())
    assert (c.placed, c.path.metrics) == ([], {})
    assert "place layers by another metric" in c.status.value


def test_nothing_is_placed_by_layers_that_were_not_to_be_fitted(layers):
    """One layer lies on the path, but not the one that λ_W is to be fitted to."""
    a = layers["a"]
    above = {"a": a, "b": layers["b"], "c": a.moved(a.means, 1.2 * a.within)}
    c = pnc.calibrate_depth(above, fit=["c"])
    assert (c.status, c.placed) == (pnc.Status.NOT_PLACED, [])


def smaller(layers, scale):
    """Two layers of a path with scale² times λ_W, fast as 1/scale²."""
    return {n: layers[n].moved(scale * layers[n].means, scale**2 * layers[n].within) for n in "ac"}


def test_a_start_from_which_the_path_comes_by_no_layer_is_left(layers):
    """Its λ_W is so large there that the path does not get there in time."""
    c = pnc.calibrate_depth(smaller(layers, 1e-2), rtol=1e-4)
    assert c.status is pnc.Status.CONVERGED
    assert c.lambda_w == pytest.approx(1e-4 * LAMBDA_W, rel=0.05)


def test_a_fit_at_its_bound_says_so(layers):
    c = pnc.calibrate_depth(smaller(layers, 2e-3), rtol=1e-4)
    assert (c.status, c.at_bound) == (pnc.Status.AT_BOUND, {"lambda_w": "low"})
    assert c.lambda_w == pytest.approx(1e-6, rel=0.02)
    assert c.placed == ["c"]


def test_two_classes():
    start = random_problem(seed=2, dim=6, num_classes=2).reduced.statistics
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.0, times=[0.5, 1.0])
    layers = {"a": start, "b": path.statistics(0), "c": path.statistics(1)}
    c = pnc.calibrate_depth(layers, rtol=1e-5)
    assert max(c.path.errors(c.stage, "nc1").values()) < 0.05
    assert all(math.isnan(e) for e in c.path.errors(c.stage, "nc2_equiangular").values())


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

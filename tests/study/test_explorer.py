import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study import explorer as module
from perturb_nc.study.depth import PLACING
from perturb_nc.study.explorer import RTOL, Explorer, LayerView
from perturb_nc.study.rivals import RIVALS, Stage

SETTING = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}
DECAY = {name: SETTING[name] for name in ("lambda_w", "lambda_h")}


@pytest.fixture(scope="module")
def layers():
    first = random_problem(seed=1, counts=(5, 9, 6, 8), dim=14).reduced.statistics
    path = pnc.central_path_flow(first, lambda_w=0.1, lambda_h=0.0, times=[0.5, 2.0])
    return {"a": first, "b": path.statistics(0), "c": path.statistics(1)}


@pytest.fixture
def explorer(layers):
    return Explorer(layers, tol=1e-10)


def metrics(view):
    return torch.tensor([v for n, v in view.metrics.as_dict().items() if not n.startswith("nc3")])


def same(view, statistics, weight=None, rtol=1e-8):
    wanted = pnc.collapse_metrics(statistics, weight).as_dict()
    assert view.metrics.as_dict() == pytest.approx(wanted, rel=rtol, nan_ok=True)
    ratios = torch.linalg.eigvalsh(statistics.within).flip(0) / statistics.between.trace()
    torch.testing.assert_close(view.spectrum, ratios, rtol=rtol, atol=rtol * float(ratios[0]))


def direct(layers, layer, setting):
    return pnc.minimize(pnc.NearCollapseProblem(layers[layer], **setting))


def test_layers_are_measured_and_follow_each_other(explorer, layers):
    for name, statistics in layers.items():
        same(explorer.view(name), statistics)
        assert explorer.view(name).metrics is explorer.measured[name]
    view = explorer.view("b")
    assert view.spectrum.sum().item() == pytest.approx(view.metrics.nc1_trace)
    assert [explorer.following(name) for name in layers] == ["b", "c", None]


def test_rivals_are_those_of_the_studies(explorer, layers):
    found = explorer.rivals("a")
    stage = Stage(layers, PLACING)
    assert {n: m.as_dict() for n, m in found.items()} == {
        name: pytest.approx(RIVALS[name](stage).metrics["b"].as_dict(), nan_ok=True)
        for name in RIVALS
    }
    assert set(explorer.rivals("b")) == {"shrinkage", "unchanged"}  # the last one is the one after
    assert explorer.rivals("c") == {}
    other = random_problem(seed=2, counts=(5, 9, 6, 8), dim=9).reduced.statistics
    assert set(Explorer({"a": layers["a"], "narrow": other}).rivals("a")) == {"unchanged"}


def test_the_optimum_is_that_of_minimize_whatever_came_before(explorer, layers):
    walk = [SETTING | {"lambda_w": 0.05 * 1.12**i} for i in range(4)]
    walk += [SETTING | {"beta": 0.5 * 1.3**i} for i in range(3)] + [SETTING | {"lambda_h": 0.4}]
    for layer in ("a", "b"):
        for setting in walk:
            optimum = explorer.optimum(layer, **setting)
            wanted = direct(layers, layer, setting)
            same(optimum.view, wanted.statistics, wanted.weight)
            assert optimum.solution.objective == pytest.approx(wanted.objective, rel=1e-12)
            assert optimum.solution.certificate.is_global == wanted.certificate.is_global
            values = torch.linalg.svdvals(wanted.weight)
            torch.testing.assert_close(optimum.singular_values, values, rtol=1e-8, atol=0)


def test_a_bent_setting_is_told_apart(explorer, layers):
    optimum = explorer.optimum("a", **SETTING)
    wanted = direct(layers, "a", SETTING | {"lambda_w": 1.01 * SETTING["lambda_w"]})
    with pytest.raises(AssertionError):
        same(optimum.view, wanted.statistics, wanted.weight, rtol=1e-5)


def test_the_first_answer_is_the_small_vicinity(explorer, layers):
    first = explorer.first_answer("a", **SETTING)
    near = pnc.small_vicinity(layers["a"], **SETTING)
    assert first.view.metrics.as_dict() == near.metrics.as_dict()
    assert not len(first.view.spectrum)
    torch.testing.assert_close(first.singular_values, torch.linalg.svdvals(near.weight))
    assert first.near.remainder == near.remainder
    assert not explorer.knows("a", **SETTING)
    explorer.optimum("a", **SETTING)
    assert explorer.knows("a", **SETTING)
    assert not explorer.knows_path("a", **DECAY)
    explorer.on_path("a", **DECAY, time=0.3)
    assert explorer.knows_path("a", **DECAY)
    with pytest.raises(ValueError, match="beta must be > 0"):
        explorer.first_answer("a", **SETTING | {"beta": 0.0})


def test_the_path_is_the_central_path_flow(explorer, layers):
    for time in (0.3, 4.0, 0.31, 0.0, 5.0, 0.01):  # first, onwards, backwards
        view = explorer.on_path("a", **DECAY, time=time)
        exact = pnc.central_path_flow(layers["a"], **DECAY, times=[time], rtol=1e-10)
        same(view, exact.statistics(0), rtol=5 * RTOL)
    alone = Explorer(layers).on_path("a", **DECAY, time=0.3)
    steps = [t for t in module._SAVED if t < 0.3]
    path = pnc.central_path_flow(layers["a"], **DECAY, times=[*steps, 0.3], rtol=RTOL)
    same(alone, path.statistics(len(steps)))


def test_moves_compute_what_they_change_only(explorer, monkeypatch):
    calls = []

    def counted(name):
        function = getattr(module, name)

        def call(*arguments, **options):
            calls.append((name, options.get("initial_weight") is not None))
            return function(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted("minimize")
    counted("central_path_flow")
    first = explorer.optimum("a", **SETTING)
    explorer.on_path("a", **DECAY, time=1.0)
    assert calls == [("minimize", False), ("central_path_flow", False)]
    explorer.on_path("a", **DECAY, time=2.0)
    explorer.on_path("a", **DECAY, time=0.2)
    assert explorer.optimum("a", **SETTING) is first
    assert len(calls) == 2
    explorer.optimum("a", **SETTING | {"beta": 0.6})
    explorer.optimum("a", **SETTING | {"beta": 60.0})
    explorer.optimum("b", **SETTING)
    assert calls[2:] == [("minimize", True), ("minimize", False), ("minimize", False)]


def test_only_the_newest_settings_are_kept(explorer):
    first = explorer.optimum("a", **SETTING)
    for i in range(module._KEPT + 3):
        explorer.optimum("a", **SETTING | {"beta": 1.0 + i})
        explorer.on_path("a", **DECAY, time=0.1 * i)
    assert len(explorer._optima) == len(explorer._points) == module._KEPT
    again = explorer.optimum("a", **SETTING)
    assert again is not first
    same(again.view, first.solution.statistics, first.solution.weight)


def test_without_an_anchor_features_collapse_exactly_or_to_zero(explorer):
    collapsed = explorer.optimum("a", lambda_w=0.1, lambda_h=0.1, beta=0.0)
    assert collapsed.view.metrics.nc1_trace == 0
    assert not collapsed.view.spectrum.any()
    assert not collapsed.is_zero
    even = random_problem(seed=3, dim=14).reduced.statistics
    balanced = Explorer({"a": even}).optimum("a", lambda_w=0.1, lambda_h=0.1, beta=0.0)
    exact = pnc.exact_collapse(num_classes=4, dim=14, lambda_w=0.1, lambda_h=0.1)
    wanted = torch.linalg.svdvals(exact.weight)
    torch.testing.assert_close(balanced.singular_values, wanted, rtol=1e-8, atol=0)
    zero = explorer.optimum("a", lambda_w=5.0, lambda_h=1.0, beta=0.0)
    assert zero.is_zero
    assert metrics(zero.view).isnan().any()
    # And a neighbour with β > 0 is not led astray by it.
    setting = {"lambda_w": 5.0, "lambda_h": 1.0, "beta": 0.01}
    wanted = direct(explorer.layers, "a", setting)
    same(explorer.optimum("a", **setting).view, wanted.statistics, wanted.weight)


def test_a_single_layer_has_none_after_it(layers):
    alone = Explorer({"a": layers["a"]})
    assert alone.following("a") is None
    assert isinstance(alone.on_path("a", **DECAY, time=1.0), LayerView)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda_w": 0.0}, "lambda_w must be > 0, got 0"),
        ({"beta": -1.0}, "beta must be >= 0, got -1"),
        ({"lambda_h": 0.0, "beta": 0.0}, "must not both be 0"),
        ({"layer": "z"}, r"there is no layer 'z'; the layers are \['a', 'b', 'c'\]"),
    ],
)
def test_settings_without_an_optimum_are_refused(explorer, change, message):
    with pytest.raises(ValueError, match=message):
        explorer.optimum(**({"layer": "a"} | SETTING | change))


def test_paths_that_there_are_not_are_refused(explorer, monkeypatch):
    with pytest.raises(ValueError, match="time must be >= 0, got -1"):
        explorer.on_path("a", **DECAY, time=-1.0)
    with pytest.raises(ValueError, match="lambda_w must be > 0"):
        explorer.on_path("a", lambda_w=0.0, lambda_h=0.1, time=1.0)
    with pytest.raises(ValueError, match="there is no layer 'z'"):
        explorer.on_path("z", **DECAY, time=1.0)
    with pytest.raises(ValueError, match="at least one layer"):
        Explorer({})
    flow = module.central_path_flow
    method = pnc.theory.flow.integrators.Exponential(max_steps=1)
    monkeypatch.setattr(module, "central_path_flow", lambda *a, **o: flow(*a, **o, method=method))
    with pytest.raises(ValueError, match="no path to t = 30: stopped at max_steps"):
        explorer.on_path("b", **DECAY, time=30.0)
    monkeypatch.undo()
    explorer.on_path("b", **DECAY, time=30.0)  # what failed was not kept

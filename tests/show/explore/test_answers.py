"""What the explorer answers beside the prediction."""

import pytest
from explored import START, network

import perturb_nc as pnc
from perturb_nc.show.explore import answers
from perturb_nc.show.explore.page import fitting_stops
from perturb_nc.show.explore.scales import SCALES, setting_at
from perturb_nc.show.labels import LABELS
from perturb_nc.study.depth import PLACING
from perturb_nc.study.explorer import Explorer
from perturb_nc.study.quantities import log_ratio

SETTING = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 1.0}


@pytest.fixture(scope="module")
def explorer():
    return Explorer(network(12))


def test_errors_are_of_the_layer_after(explorer):
    optimum = explorer.optimum("one", **SETTING)
    heads, rows = answers.errors(explorer, "one", {"optimum": optimum.view, "path": None})
    assert [name for name, _ in rows] == [
        "optimum", "path", "shrinkage", "interpolation", "unchanged",
    ]  # fmt: skip
    measured = {name: metrics.nc1 for name, metrics in explorer.measured.items()}
    halfway = (measured["one"] * measured["three"]) ** 0.5
    expected = {
        name: abs(float(log_ratio(value, measured["two"])))
        for name, value in (
            ("optimum", optimum.view.metrics.nc1),
            ("interpolation", halfway),
            ("unchanged", measured["one"]),
        )
    }
    cells = {name: row[heads.index("NC1") - 1] for name, row in rows}
    assert {name: float(cells[name]) for name in expected} == pytest.approx(expected, rel=0.05)
    assert cells["path"] == "–"
    layers = dict(zip("ab", list(explorer.layers.values())[:1] * 2, strict=True))
    heads, rows = answers.errors(Explorer(layers), "a", {})
    told = heads.index(LABELS[PLACING].symbol) - 1
    assert [(name, row[told]) for name, row in rows] == [("shrinkage", "–"), ("unchanged", "0")]
    assert answers.errors(explorer, "three", {"optimum": optimum.view}) == ([], [])


def test_sensitivity_is_the_derivative(explorer):
    optimum = explorer.optimum("one", **SETTING)
    said = answers.sensitivity(optimum)
    assert said.startswith("10 % more of each changes NC1 by: ")
    for name, symbol in (("lambda_w", "λ_W"), ("beta", "β")):
        moved = explorer.optimum("one", **{**SETTING, name: 1.001 * SETTING[name]})
        change = 1e4 * (moved.view.metrics.nc1 / optimum.view.metrics.nc1 - 1)
        value = float(said.split(f"{symbol} ")[1].split(" %")[0])
        assert value == pytest.approx(change, rel=0.06)
    assert "not known here" in answers.sensitivity(
        explorer.optimum("one", **{**SETTING, "beta": 0.0})
    )


def test_a_fit_moves_the_sliders_to_what_was_fitted(explorer):
    found = answers.fitted(explorer, "one")
    own = pnc.fit_regularization(explorer.layers["one"], explorer.layers["two"])
    assert found["beta"] == pytest.approx(own.beta)
    stops, said = fitting_stops(explorer, "one", START)
    at, time = setting_at(stops)
    assert time == setting_at(START)[1]
    for name, value in found.items():
        scale = SCALES[name]
        inside = min(max(value, scale.values[1]), scale.values[-1])
        assert at[name] == pytest.approx(inside, rel=0.06)
    assert said[0].startswith("The layer after this one is fitted best by λ_W = ")
    assert fitting_stops(explorer, "three", START) == (
        START, ["No fit here: no layer follows this one."],
    )  # fmt: skip


def test_the_code_gives_what_is_shown(explorer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pnc.save_layers(explorer.layers, "net.safetensors")
    namespace = {}
    exec(answers.code("net.safetensors", "one", SETTING, 0.5), namespace)
    optimum = explorer.optimum("one", **SETTING)
    assert namespace["optimum"].objective == pytest.approx(optimum.solution.objective)
    path = explorer.on_path("one", lambda_w=0.05, lambda_h=0.02, time=0.5)
    assert namespace["path"].metrics[0].nc1 == pytest.approx(path.metrics.nc1, rel=1e-3)

import numpy as np
import pytest
import torch
from dense_cross_entropy import dense_cross_entropy

import perturb_nc as pnc
from perturb_nc.layer_samples import LayerSamples
from perturb_nc.study import sample_paths, theories
from perturb_nc.study.bench import theories_of_depth
from perturb_nc.study.comparison import errors
from perturb_nc.study.models import model_of
from perturb_nc.study.rivals import Stage
from perturb_nc.study.sample_paths import placed_on_samples, sample_chain
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.cross_entropy.flow import cross_entropy_flow

LAMBDA_W, TIMES = 0.25, (0.3, 0.8, 1.5)
pytestmark = pytest.mark.usefixtures("unchecked")


@pytest.fixture(scope="module")
def start():
    dense = dense_cross_entropy(seed=2, num_classes=3, dim=5, counts=(6, 6, 6))
    return LayerSamples(dense.reference, dense.labels)


def problem_of(start, **changed):
    strengths = {"lambda_w": LAMBDA_W, "lambda_h": 0.0, "beta": 0.7, **changed}
    return pnc.CrossEntropyProblem(start.features, start.labels, **strengths)


@pytest.fixture(scope="module")
def path(start):
    """A network whose layers lie on the path."""
    flow = cross_entropy_flow(problem_of(start), times=TIMES, rtol=1e-3)
    later = {n: LayerSamples(h, start.labels) for n, h in zip("bcd", flow.features, strict=True)}
    return {"a": start, **later}


def chain_of(start):
    """A network whose layers lie on the straight line to the optimum."""
    last = pnc.minimize(problem_of(start)).features(start.features, start.labels)
    shares = zip("bcd", (1 / 3, 2 / 3, 1.0), strict=True)
    later = {n: start.features + s * (last - start.features) for n, s in shares}
    return {"a": start, **{n: LayerSamples(h, start.labels) for n, h in later.items()}}


def stage_of(layers):
    measured = {name: layer.statistics for name, layer in layers.items()}
    return Stage(measured, "nc1_span", start=model_of(layers["a"], "cross-entropy", bias=True))


def test_layers_of_the_path_are_placed_on_it(path, monkeypatch):
    monkeypatch.setattr(sample_paths, "_FIRST", 0.05)
    stage = stage_of(path)
    found = placed_on_samples(stage.hide(["c"]), LAMBDA_W, Clock())
    assert list(found) == ["b", "c", "d"]
    for name, statistics in found.items():
        wanted = path[name].statistics
        own = pnc.collapse_metrics(statistics)
        assert own.nc1_span == pytest.approx(stage.value(name), rel=1e-3)
        assert own.nc1_trace == pytest.approx(stage.measured[name].nc1_trace, rel=5e-3)
        torch.testing.assert_close(statistics.means, wanted.means, rtol=0, atol=0.02)


def test_a_path_stops_when_time_is_up(path):
    assert placed_on_samples(stage_of(path), LAMBDA_W, Clock.of(1e-9, None)) == {}


def test_a_chain_is_the_straight_line_to_the_optimum(start):
    layers = chain_of(start)
    options = {"lambda_w": LAMBDA_W, "beta": 0.7, "length": 3, "tol": 1e-10}
    model = model_of(start, "cross-entropy", bias=True)
    found = sample_chain(model, **options, initial_weight=None)
    for i, name in enumerate("bcd"):
        expected = layers[name].statistics
        torch.testing.assert_close(found.statistics(i).means, expected.means)
        torch.testing.assert_close(found.statistics(i).within, expected.within)


@pytest.mark.slow
def test_the_bench_follows_the_theory_a_network_was_made_by(path, start, monkeypatch):
    for name, value in (("_STARTS", (-2.0,)), ("_STEPS", (1.0,)), ("_LIMITS", (-3.0, -1.0))):
        monkeypatch.setattr(theories, name, value)
    for layers, model in ((path, "central_path"), (chain_of(start), "chain")):
        bench = theories_of_depth(layers, name="made", loss="cross-entropy")
        assert bench.attrs["loss"] == "cross-entropy"
        found = bench["parameters"].sel(model=model, parameter="lambda_w")
        assert (found == LAMBDA_W).all()
        error = errors(bench).sel(model=model, quantity=["nc1", "nc1_trace", "cdnv"])
        assert float(error.max()) < 0.02
        squared = theories_of_depth(layers, name="made")
        other = errors(squared).sel(model=model, quantity=["nc1", "nc1_trace", "cdnv"])
        assert float(other.max()) > 2 * float(error.max())


def test_other_theories_see_what_they_saw(path):
    bench = theories_of_depth(path, name="x", loss="cross-entropy", time_limit=1e-9)
    plain = {name: layer.statistics for name, layer in path.items()}
    squared = theories_of_depth(plain, name="x", time_limit=1e-9)
    np.testing.assert_array_equal(bench["predicted"].values, squared["predicted"].values)
    with pytest.raises(ValueError, match="layer 'a' holds no samples"):
        theories_of_depth(plain, name="x", loss="cross-entropy")

"""The chain on the bench, against layers that a dense minimisation made."""

import pytest
from own_networks import LAMBDA_W, NAMES, chain_of, minimised_chain
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study import theories
from perturb_nc.study.chains import equal_steps, on_chain, placed_on_chain
from perturb_nc.study.rivals import Stage
from perturb_nc.study.theories import THEORIES

DECAY, BETAS = 2.0**-5, (3.0, 3.0, 3.0)


@pytest.fixture(scope="module")
def layers():
    """Of a chain with decay on every layer, minimised over all of its features."""
    problem = random_problem(seed=1, dim=4, num_classes=3, lambda_w=LAMBDA_W, lambda_h=DECAY)
    _, _, found = minimised_chain(problem, BETAS, DECAY)
    features = [problem.reference.mT, *found]
    own = [pnc.ClassStatistics.from_features(x, problem.labels) for x in features]
    return dict(zip(NAMES, own, strict=True))


def worst(prediction, layers):
    stage = Stage(layers, "nc1_span")
    metrics = ("nc1", "nc1_trace", "nc2_etf")  # a chain says nothing of single classes
    return max(prediction.errors(stage, m)[n] for m in metrics for n in ("b", "c"))


def test_a_chain_with_decay_is_met_at_its_own_parameters(layers):
    view = Stage(layers, "nc1_span").hide(["b", "c"])
    found = on_chain(view, equal_steps, LAMBDA_W, DECAY)
    assert worst(found, layers) < 5e-5
    for bent in ((1.05 * LAMBDA_W, DECAY), (LAMBDA_W, 1.02 * DECAY), (LAMBDA_W, 0.0)):
        assert worst(on_chain(view, equal_steps, *bent), layers) > 1e-4


def test_its_parameters_are_found(layers, monkeypatch):
    for name, value in (("_STARTS", (-2.0,)), ("_STEPS", (1.0,)), ("_LIMITS", (-3.0, -1.0))):
        monkeypatch.setattr(theories, name, value)
    view = Stage(layers, "nc1_span").hide(["c"])
    found = THEORIES["chain_decay"].predict(view)
    assert found.parameters["lambda_w"] == LAMBDA_W
    assert found.parameters["layer_decay"] == DECAY
    assert worst(found, layers) < 2e-4  # β is found to 1e-3
    assert worst(THEORIES["chain"].predict(view), layers) > 2e-3


def test_placed_layers_have_their_metric_and_lie_on_the_line(layers):
    start = layers["a"]
    uneven = chain_of(start, betas=(2.0, 5.0, 3.0))
    view = Stage(uneven, "nc1_span").hide(["b"])
    found = on_chain(view, placed_on_chain, LAMBDA_W)
    assert found.metrics["b"].nc1_span == pytest.approx(view.value("b"), rel=1e-8)
    assert worst(found, uneven) < 2e-3
    assert worst(on_chain(view, equal_steps, LAMBDA_W), uneven) > 0.02
    # A layer that varies more than the first is nowhere on it.
    rising = {**uneven, "b": start.moved(start.means, 2 * start.within)}
    found = on_chain(Stage(rising, "nc1_span").hide(["b"]), placed_on_chain, LAMBDA_W)
    assert sorted(found.metrics) == ["c", "d"]


def test_there_is_no_chain_to_a_last_layer_that_varies_more(layers):
    rising = {**layers, "d": layers["a"].moved(layers["a"].means, 2 * layers["a"].within)}
    assert on_chain(Stage(rising, "nc1_span"), equal_steps, LAMBDA_W).metrics == {}

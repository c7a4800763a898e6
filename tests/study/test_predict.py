import math

import near_cross_entropy
import pytest
import torch
from problems import near_collapse, random_problem

import perturb_nc as pnc
from perturb_nc.layer_samples import LayerSamples
from perturb_nc.study.predict import predict_layers
from perturb_nc.theory.cross_entropy.vicinity import cross_entropy_vicinity

PARAMETERS = {"lambda_w": 0.3, "lambda_h": 0.1, "beta": 0.7}


@pytest.fixture
def layers():
    return {f"layer.{i}": random_problem(seed=i).reduced.statistics for i in range(3)}


def test_every_layer_is_solved_with_itself_as_reference(layers):
    weight = torch.randn(4, 12)
    predictions = predict_layers(layers, **PARAMETERS, weights={"layer.1": weight})
    assert list(predictions) == list(layers)
    for name, prediction in predictions.items():
        solution = pnc.minimize(pnc.NearCollapseProblem(layers[name], **PARAMETERS))
        assert prediction.solution.objective == solution.objective
        expected = pnc.collapse_metrics(solution.statistics, solution.weight)
        assert prediction.predicted == expected
        measured = pnc.collapse_metrics(layers[name], weight if name == "layer.1" else None)
        assert prediction.measured.nc1 == measured.nc1
        assert math.isnan(prediction.measured.nc3_duality) == (name != "layer.1")
    record = predictions["layer.0"].as_dict()
    assert record["status"] == "CONVERGED"
    assert record["gap"] == pytest.approx(record["objective"] - record["lower_bound"], abs=1e-15)


def test_bad_arguments_are_named_before_any_work(layers):
    with pytest.raises(ValueError, match="beta must be >= 0"):
        predict_layers(layers, **{**PARAMETERS, "beta": -1.0})
    with pytest.raises(ValueError, match=r"weight must have shape \('any', 12\)"):
        predict_layers(layers, **PARAMETERS, weights={"layer.2": torch.zeros(4, 5)})
    with pytest.raises(ValueError, match="method must be 'exact' or 'vicinity', got 'near'"):
        predict_layers(layers, **PARAMETERS, method="near")


def test_near_collapse_it_is_small_vicinity_and_says_where_it_ends():
    near, setting, _ = near_collapse(1e-3)
    far, *_ = near_collapse(0.6)
    found = predict_layers({"near": near, "far": far}, **setting, method="vicinity")
    expected = pnc.small_vicinity(near, **setting)
    assert found["near"].predicted.as_dict() == pytest.approx(expected.metrics.as_dict())
    assert found["near"].measured.nc1 == pnc.collapse_metrics(near).nc1
    exact = predict_layers({"near": near}, **setting)["near"].predicted
    assert found["near"].predicted.nc1 == pytest.approx(exact.nc1, rel=1e-2)
    record = found["near"].as_dict()
    assert (record["method"], record["status"], record["is_small"]) == (
        "vicinity", "CONVERGED", True
    )  # fmt: skip
    assert record["remainder"] == expected.remainder
    assert record["spectral_ratio"] == expected.certificate.spectral_ratio
    assert found["far"].as_dict()["status"] == "NOT_SMALL"


def test_a_layer_without_a_nearest_frame_is_named(layers):
    narrow = random_problem(seed=0, dim=3).reduced.statistics
    with pytest.raises(ValueError, match="narrow: statistics must have dim >= 4 for a frame"):
        predict_layers({**layers, "narrow": narrow}, **PARAMETERS, method="vicinity")


def test_near_collapse_with_cross_entropy_it_is_its_closed_form():
    problem = near_cross_entropy.near_collapse(1e-3)
    layer = LayerSamples(problem.features, problem.labels)
    options = {**near_cross_entropy.SETTING, "loss": "cross-entropy", "bias": True}
    found = predict_layers({"near": layer}, **options, method="vicinity")["near"]
    expected = cross_entropy_vicinity(problem)
    assert found.as_dict()["remainder"] == expected.remainder
    exact = predict_layers({"near": layer}, **options)["near"].predicted
    assert found.predicted.nc1 == pytest.approx(exact.nc1, rel=1e-2)
    with pytest.raises(ValueError, match="layer 'a' holds no samples"):
        predict_layers({"a": layer.statistics}, **options, method="vicinity")

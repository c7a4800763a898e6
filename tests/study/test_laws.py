"""Laws in the layer number: exact on their own networks, and what others have measured."""

import math

import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study.laws import (
    deep_linear,
    deep_linear_compression,
    equi_separation,
    load_curve,
    separation_law,
)
from perturb_nc.study.rivals import Stage

# He & Su 2023, Figure 1: CIFAR-10, six hidden layers with batch norm; digitised, to 3 %.
HE_SU = (129, 46.4, 22.0, 9.40, 3.92, 1.48, 0.513, 0.278)
# ÑC1 of a trained deep linear network, K = 3, n = 10, d = 50, L = 6, ε = 0.3, c = 0.01.
DEEP_LINEAR = (11.9993, 3.4821, 0.98436, 0.27633, 0.077458, 0.021715)


def test_the_law_of_equi_separation_in_the_numbers_of_its_authors():
    law = separation_law(HE_SU)
    assert law.rate == pytest.approx(0.412, abs=5e-4)
    assert law.correlation == pytest.approx(-0.999, abs=5e-4)
    assert abs(law.curvature) < 0.05
    bent = separation_law([d * 1.01**i for i, d in enumerate(HE_SU)])
    assert bent.rate == pytest.approx(1.01 * law.rate, rel=1e-12)
    assert abs(bent.rate - 0.412) > 5e-4


def test_a_parabola_is_found():
    law = separation_law([math.exp(1 - 0.3 * i - 0.05 * i**2) for i in range(6)])
    assert law.curvature == pytest.approx(-0.1, rel=1e-10)
    assert separation_law([2.0, 1.0]).rate == pytest.approx(0.5)
    assert math.isnan(separation_law([2.0, 1.0]).curvature)
    assert math.isnan(separation_law([1.0, 1.0, 1.0]).correlation)


def test_deep_linear_networks_compress_geometrically():
    settings = {"depth": 6, "samples_per_class": 10, "initial_scale": 0.3, "target_scale": 0.01}
    factor = deep_linear_compression(**settings)
    assert factor == pytest.approx(0.3**2 / (0.01 * math.sqrt(10)) ** (1 / 3), rel=1e-14)
    ratios = np.divide(DEEP_LINEAR[1:], DEEP_LINEAR[:-1])
    assert np.abs(np.log(ratios / factor)).max() < 0.02
    assert separation_law(DEEP_LINEAR).rate == pytest.approx(factor, rel=0.01)
    bent = deep_linear_compression(**{**settings, "initial_scale": 0.303})
    assert np.abs(np.log(ratios / bent)).max() > 0.02


@pytest.fixture(scope="module")
def geometric():
    """Layers in which every NC1 falls by .6 a layer, and then ever more."""
    start = random_problem(seed=1, dim=6, num_classes=3).reduced.statistics

    def stage(curvature):
        factors = [0.6**i * math.exp(-curvature * i**2) for i in range(5)]
        layers = {f"{i}": start.moved(start.means, f * start.within) for i, f in enumerate(factors)}
        return Stage(layers, "nc1_span")

    return stage


@pytest.mark.parametrize(("predict", "curvature"), [(equi_separation, 0.0), (load_curve, 0.1)])
def test_a_curve_is_exact_on_a_network_that_follows_it(geometric, predict, curvature):
    stage = geometric(curvature)
    for hidden in stage.names[1:]:
        found = predict(stage.hide([hidden]))
        assert found.given == set(stage.names) - {hidden}
        for metric in ("nc1", "nc1_trace", "cdnv", "nc2_etf"):
            assert found.errors(stage, metric)[hidden] < 1e-10
        ratio = found.spectra[hidden][0, :6] / stage.spectra[hidden][0, :6]
        np.testing.assert_allclose(ratio, 1.0, rtol=1e-10)
    bent = predict(geometric(curvature + 0.01 if predict is equi_separation else 0).hide(["3"]))
    assert bent.errors(stage, "nc1")["3"] > 1e-2


def test_deep_linear_layers_compress_and_discriminate(geometric):
    """Discrimination on a line: class means of unit length that turn away from each other."""
    turned = []
    for i, (name, layer) in enumerate(geometric(0.0).layers.items()):
        means, target = torch.zeros_like(layer.means), 0.1 + 0.05 * i  # of discrimination
        means[:, :3] = torch.linalg.cholesky(
            target * torch.eye(3) + (1 - target) * torch.ones(3, 3)
        ).double()
        between = layer.moved(means, layer.within)
        scale = 0.6**i / pnc.collapse_metrics(between).nc1_trace
        turned.append((name, layer.moved(means, scale * layer.within)))
    stage = Stage(dict(turned), "nc1_span")
    for hidden in stage.names[1:]:
        found = deep_linear(stage.hide([hidden]))
        assert found.errors(stage, "nc1_trace")[hidden] < 1e-6
        assert found.errors(stage, "discrimination")[hidden] < 1e-6
        assert math.isnan(found.metrics[hidden].nc1)
        assert np.isnan(found.spectra[hidden]).all()
    assert deep_linear(stage.hide(stage.names[1:])).metrics == {}
    bent = dict(turned) | {"3": geometric(0.0).layers["3"]}
    assert (
        deep_linear(stage.hide(["2"])).errors(Stage(bent, "nc1_span"), "discrimination")["3"] > 1e-2
    )


def test_too_few_layers_are_no_curve(geometric):
    stage = geometric(0.0)
    assert equi_separation(stage.hide(stage.names[1:])).metrics == {}
    assert load_curve(stage.hide(stage.names[2:])).metrics == {}


def test_bad_values_are_refused():
    with pytest.raises(ValueError, match="the number of values must be"):
        separation_law([1.0])
    with pytest.raises(ValueError, match="values must be > 0"):
        separation_law([1.0, 0.0])
    with pytest.raises(ValueError, match="initial_scale must be > 0"):
        deep_linear_compression(depth=3, samples_per_class=1, initial_scale=0.0)

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


SETTINGS = {"num_layers": 6, "samples_per_class": 10, "initial_scale": 0.3, "target_scale": 0.01}


def trained_deep_linear(*, aligned):
    """ÑC1 of the inputs and of five layers, the last layer having K rows; K = 3, n = 10, d = 50."""
    generator = torch.Generator().manual_seed(0)

    def frame(columns):
        return torch.linalg.qr(torch.randn(50, columns, generator=generator).double()).Q

    labels, x = torch.arange(30) // 10, frame(30)
    weights = [0.3 * frame(50) for _ in range(6)]
    if aligned:  # the last layer starts in the rows that it is to learn
        means = torch.stack([x[:, labels == k].mean(1) for k in range(3)])
        through = torch.linalg.multi_dot([w / 0.3 for w in reversed(weights[:-1])])
        weights[-1] = 0.3 * 10**0.5 * means @ through.mT
    else:
        weights[-1] = weights[-1][:3]
    target = 0.01 * torch.nn.functional.one_hot(labels).double().mT
    for _ in range(500):
        layers = [x]
        for w in weights:
            layers.append(w @ layers[-1])
        back = layers[-1] - target
        for i in reversed(range(6)):
            step = 20 * back @ layers[i].mT
            back = weights[i].mT @ back
            weights[i] = weights[i] - step
    assert (layers[-1] - target).norm() < 1e-9
    found = [pnc.ClassStatistics.from_features(h.mT, labels) for h in layers[:-1]]
    return np.array([pnc.collapse_metrics(s).nc1_trace for s in found]), weights


def test_deep_linear_networks_compress_geometrically():
    factor = deep_linear_compression(**SETTINGS)
    assert factor == pytest.approx(0.3**2 / (0.01 * math.sqrt(10)) ** (1 / 3), rel=1e-14)
    values, _ = trained_deep_linear(aligned=True)
    assert values == pytest.approx(13.5 * factor ** np.arange(6), rel=1e-8)  # (n-1)K/(K-1)
    assert separation_law(values.tolist()).rate == pytest.approx(factor, rel=1e-8)
    bent = deep_linear_compression(**{**SETTINGS, "initial_scale": 0.303})
    assert np.abs(values[1:] / values[:-1] / bent - 1).min() > 0.01


def test_a_start_that_is_not_aligned_explains_the_digits_of_others():
    """W_L has K rows and starts in others than it learns: the other layers grow a little more.

    For WᵀW of the last layer less WWᵀ of the one before is conserved.
    """
    factor = deep_linear_compression(**SETTINGS)
    values, weights = trained_deep_linear(aligned=False)
    ours, theirs = (np.divide(v[1:], v[:-1]) for v in (values, DEEP_LINEAR))
    assert np.abs(np.log(theirs[1:] / factor)).max() > 0.013  # the closed form is off by as much
    assert np.abs(np.log(ours[1:] / theirs[1:])).max() < 0.01
    assert np.abs(np.log(ours[2:] / theirs[2:])).max() < 0.003
    # Their inputs are not quite orthonormal: ÑC1 is 13.5 for those that are. With 4 % of tr Σ_B in
    # directions that are not learned, and grow by ε as deviations do, it is their digits.
    assert values[0] == pytest.approx(13.5)
    outside = 1 + 0.0403 * 0.2803 ** np.arange(6)
    assert np.abs(np.log(ours * outside[:-1] / outside[1:] / theirs)).max() < 0.001
    sizes = [torch.linalg.svdvals(w)[:3] for w in weights]
    assert sizes[0].min() > (0.01 * 10**0.5) ** (1 / 6) > sizes[-1].max()


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
        deep_linear_compression(num_layers=3, samples_per_class=1, initial_scale=0.0)

"""The straight line between measured ends, and how straight layers are, against samples."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.study.rivals import Stage
from perturb_nc.study.straight_line import (
    all_pairs,
    on_line,
    straightness,
    straightness_of_means,
)
from perturb_nc.study.theories import THEORIES

SHARES = {"a": 0.0, "b": 0.2, "c": 0.7, "d": 1.0}
NAMES = list(SHARES)


def joint(first, last, labels):
    both = pnc.ClassStatistics.from_features(torch.cat([first, last], 1), labels)
    alone = [pnc.ClassStatistics.from_features(x, labels) for x in (first, last)]
    return JointStatistics(*alone, both.within[: first.shape[1], first.shape[1] :])


@pytest.fixture(scope="module")
def samples():
    """Features of two layers, and the labels."""
    generator = torch.Generator().manual_seed(0)
    first, noise = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 4
    means = 3 * torch.randn(4, 5, generator=generator, dtype=torch.float64)
    return first, means[labels] + 0.3 * first + 0.1 * noise, labels


@pytest.fixture(scope="module")
def stage(samples):
    first, last, labels = samples
    layers = {
        n: pnc.ClassStatistics.from_features((1 - t) * first + t * last, labels)
        for n, t in SHARES.items()
    }
    return Stage(layers, "nc1_span", joint=joint(first, last, labels))


def test_statistics_on_the_line_are_those_of_the_samples_there(stage):
    for name, share in SHARES.items():
        found, own = on_line(stage.joint, share), stage.layers[name]
        torch.testing.assert_close(found.means, own.means, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.within, own.within, rtol=0, atol=1e-12)
    bent = on_line(stage.joint, 1.01 * SHARES["c"])
    assert (bent.within - stage.layers["c"].within).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["straight_line_displacement", "straight_line_placed"])
def test_a_layer_on_the_line_is_placed_and_predicted(stage, name):
    found = THEORIES[name].predict(stage.hide(["c"]))
    assert found.given == {"d"}
    for metric in ("nc1", "nc1_trace", "nc2_etf"):
        assert found.errors(stage, metric)["c"] < 1e-6
    assert THEORIES[name].predict(stage.hide(["d"])).metrics == {}  # an end is to be seen


def test_equal_steps_are_equal(stage):
    found = THEORIES["straight_line"].predict(stage.hide(["c"]))
    own = pnc.collapse_metrics(on_line(stage.joint, 2 / 3))
    assert found.metrics["c"].nc1 == own.nc1


def test_a_layer_beyond_both_ends_has_no_place(stage):
    above = stage.layers["b"].moved(stage.layers["b"].means, 1e3 * stage.layers["b"].within)
    bent = Stage({**stage.layers, "b": above}, "nc1_span", joint=stage.joint)
    assert "b" not in THEORIES["straight_line_placed"].predict(bent.hide(["b"])).metrics


def joints_of(layers, labels):
    names = list(layers)
    return {(a, b): joint(layers[a], layers[b], labels) for a, b in all_pairs(names)}


def test_layers_on_a_line_are_straight(samples):
    first, last, labels = samples
    layers = {n: (1 - t) * first + t * last for n, t in SHARES.items()}
    found = straightness(joints_of(layers, labels))
    assert found.line_shape == pytest.approx(1, abs=1e-10)
    assert found.path_ratio == pytest.approx(1, abs=1e-10)
    np.testing.assert_allclose(found.steps, [0.2, 0.5, 0.3], atol=1e-10)
    np.testing.assert_allclose(found.shares, list(SHARES.values()), atol=1e-10)
    np.testing.assert_allclose(found.off_line, 0, atol=1e-6)


def test_straightness_is_that_of_the_samples_as_one_vector(samples):
    first, last, labels = samples
    generator = torch.Generator().manual_seed(1)
    x = [first, *torch.randn(2, 40, 5, generator=generator, dtype=torch.float64), last]
    found = straightness(joints_of(dict(zip(NAMES, x, strict=True)), labels))
    steps = [b - a for a, b in pairwise(x)]
    lengths = [s.norm().item() for s in steps]
    whole = (x[-1] - x[0]).norm().item()
    unit = sum(s / s.norm() for s in steps)
    assert found.line_shape == pytest.approx(3 / unit.norm().item(), rel=1e-12)
    assert found.path_ratio == pytest.approx(sum(lengths) / whole, rel=1e-12)
    assert found.path_ratio != pytest.approx(1.01 * sum(lengths) / whole, rel=1e-3)
    np.testing.assert_allclose(found.steps, np.array(lengths) / whole, rtol=1e-12)
    line = (x[-1] - x[0]) / whole
    for i in (1, 2):
        along = ((x[i] - x[0]) * line).sum().item()
        off = math.sqrt((x[i] - x[0]).norm().item() ** 2 - along**2)
        assert found.shares[i] == pytest.approx(along / whole, rel=1e-10)
        assert found.off_line[i] == pytest.approx(off / whole, rel=1e-10)


def test_missing_pairs_and_widths_are_refused(samples):
    first, last, labels = samples
    joints = joints_of({"a": first, "b": last, "c": first}, labels)
    del joints["a", "c"]
    with pytest.raises(ValueError, match=r"every pair of layers, \(a, c\) is not"):
        straightness(joints)
    with pytest.raises(ValueError, match="must have one width, a and b do not"):
        straightness({("a", "b"): joint(first, last[:, :3], labels)})


def test_straightness_of_means_is_that_of_one_sample_a_class(samples):
    first, last, labels = samples
    x = [(1 - t) * first + t * last + t * (1 - t) * first.square() for t in SHARES.values()]
    layers = {
        n: pnc.ClassStatistics.from_features(h, labels) for n, h in zip(SHARES, x, strict=True)
    }
    means = {name: s.centered_means for name, s in layers.items()}
    wanted = straightness(joints_of(means, torch.arange(4)))
    found = straightness_of_means(layers)
    assert found.line_shape > 1.001
    assert found.line_shape == pytest.approx(wanted.line_shape, rel=1e-10)
    assert found.off_line == pytest.approx(wanted.off_line, abs=1e-7)
    with pytest.raises(ValueError, match="the number of layers must be >= 2"):
        straightness_of_means({"a": layers["a"]})
    assert math.isnan(straightness_of_means({"a": layers["a"], "b": layers["a"]}).line_shape)

"""Near the collapse of unequal classes, against the solver."""

import numpy as np
import pytest
import torch
from problems import statistics_of
from vicinities import slopes, solved

import perturb_nc as pnc
from perturb_nc.theory.vicinity.classes import UnequalClasses, nearly_balanced, unequal_classes

SETTING = {"lambda_w": 0.3, "lambda_h": 0.1, "beta": 0.7}
SIZES = {"2:8": (2, 8), "10:20:70": (10, 20, 70), "two alike": (5, 5, 40)}
sizes = pytest.mark.parametrize("counts", SIZES.values(), ids=SIZES)
biases = pytest.mark.parametrize("bias", [False, True])


def collapsed(counts, setting, bias, dim=9):
    """Class means of an optimum without an anchor, which the solver finds."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(len(counts), dim, generator=generator, dtype=torch.float64)
    start = statistics_of(start, counts=torch.tensor(counts))
    return solved(start, {**setting, "beta": 0.0}, bias).statistics


def near(counts, step, bias, exact=None):
    """Statistics at a distance from that collapse."""
    generator = torch.Generator().manual_seed(2)
    exact = exact or collapsed(counts, SETTING, bias)
    k, d = exact.means.shape
    away, root = torch.randn(2, d, d, generator=generator, dtype=torch.float64)
    means = exact.means + step * away[:k] + (away[-1] if bias else 0.0)
    return statistics_of(means, step * root @ root.mT / (4 * d), torch.tensor(counts))


def errors(counts, steps, bias, order=1):
    exact, rows = collapsed(counts, SETTING, bias), []
    for step in steps:
        statistics = near(counts, step, bias, exact)
        found = pnc.small_vicinity(statistics, **SETTING, bias=bias, order=order)
        best = solved(statistics, SETTING, bias)
        gaps = [found.weight - best.weight, found.statistics.means - best.statistics.means]
        gaps += [found.bias - best.bias] if bias else []
        within = found.statistics.within - best.statistics.within
        rows.append([gap.norm().item() for gap in [*gaps, within]])
    return np.array(rows)


@sizes
@biases
def test_what_is_left_is_of_second_order_over_two_decades(counts, bias):
    steps = 1e-2 / 10.0 ** np.arange(3)
    found = slopes(errors(counts, steps, bias), steps)
    np.testing.assert_allclose(found[:, :-1], 2, atol=0.03)
    np.testing.assert_allclose(found[-1, :-1], 2, atol=0.005)
    np.testing.assert_allclose(found[:, -1], 3, atol=0.03)  # Σ_W, which is itself of the first


@biases
def test_the_second_order_gains_one(bias):
    steps = np.array([4e-3, 2e-3])
    found = slopes(errors((10, 20, 70), steps, bias, order=2), steps)
    np.testing.assert_allclose(found[0, :-1], 3, atol=0.05)


@biases
@pytest.mark.parametrize("part", ["slope", "threshold", "sizes", "lengths"])
def test_a_one_percent_mutation_is_seen(part, bias, monkeypatch):
    refined = UnequalClasses.refined

    def bent(self, point):
        whole = {n: getattr(self, n) for n in ("slope", "threshold", "sizes", "lengths")}
        whole[part] = 1.01 * whole[part]
        own = type("Bent", (), {**vars(self), **whole})()
        return refined(own, point)

    monkeypatch.setattr(UnequalClasses, "refined", bent)
    steps = np.array([2e-5, 1e-5])
    assert slopes(errors((10, 20, 70), steps, bias), steps)[0, 0] < 1.6


@sizes
@biases
def test_at_collapse_it_is_exact(counts, bias):
    statistics = near(counts, 0.0, bias)
    found = pnc.small_vicinity(statistics, **SETTING, bias=bias)
    exact = solved(statistics, SETTING, bias)
    torch.testing.assert_close(found.weight, exact.weight, rtol=0, atol=1e-8)
    centre = statistics.priors @ statistics.means if bias else 0.0
    torch.testing.assert_close(found.size * found.frame, statistics.means - centre)
    assert found.distance < 1e-7
    assert found.is_small


def test_a_class_collapses_to_zero_below_its_share():
    """Without bias λ_W λ_H = Kπ_k is the end of class k."""
    counts, share = (10, 20, 70), 0.1
    for ratio, there in ((0.98, True), (1.02, False)):
        setting = {**SETTING, "lambda_h": ratio * 3 * share / SETTING["lambda_w"]}
        exact = collapsed(counts, setting, bias=False)
        assert (exact.means[0].norm() > 0.05) == there
        statistics = near(counts, 0.01, bias=False)
        if there:
            assert pnc.small_vicinity(statistics, **setting).problem.lambda_h > 0
            continue
        with pytest.raises(ValueError, match=r"must be < 0.3 for classes of sizes \[10, 20, 70\]"):
            pnc.small_vicinity(statistics, **setting)


@biases
def test_far_away_it_says_so_and_the_remainder_estimates_the_error(bias):
    exact = collapsed((10, 20, 70), SETTING, bias)
    assert not pnc.small_vicinity(
        near((10, 20, 70), 0.5, bias, exact), **SETTING, bias=bias
    ).is_small
    statistics = near((10, 20, 70), 1e-2, bias, exact)
    found = pnc.small_vicinity(statistics, **SETTING, bias=bias)
    best = solved(statistics, SETTING, bias)
    error = (found.weight - best.weight).norm() / best.weight.norm()
    assert found.remainder["weight"] == pytest.approx(error.item(), rel=0.1)
    assert found.problem.objective(found.weight) - best.objective <= found.certificate.gap + 1e-15


@biases
def test_derivatives_are_those_of_the_optimum_to_first_order(bias):
    statistics = near((10, 20, 70), 1e-3, bias)
    found = pnc.small_vicinity(statistics, **SETTING, bias=bias).derivatives
    exact = pnc.hyperparameter_response(solved(statistics, SETTING, bias))
    for name in SETTING:
        torch.testing.assert_close(found.means[name], exact.means[name], rtol=0, atol=1e-4)
        assert found.metrics[name]["nc1"] == pytest.approx(exact.metrics[name]["nc1"], rel=1e-3)


@biases
def test_features_of_samples_have_the_statistics(bias):
    labels = torch.tensor([0, 0, 0, *([1] * 9)])
    exact = collapsed((3, 9), SETTING, bias)
    noise = torch.randn(12, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    features = exact.means[labels] + 0.02 * noise
    statistics = pnc.ClassStatistics.from_features(features, labels)
    found = pnc.small_vicinity(statistics, **SETTING, bias=bias)
    own = pnc.ClassStatistics.from_features(found.features(features, labels), labels)
    torch.testing.assert_close(own.means, found.statistics.means)
    torch.testing.assert_close(own.within, found.statistics.within)


def test_where_classes_count_as_nearly_balanced():
    statistics = near((10, 20, 70), 0.01, bias=False)
    assert not nearly_balanced(statistics)
    assert nearly_balanced(statistics_of(statistics.means, counts=torch.tensor([76, 100, 124])))
    assert not nearly_balanced(statistics_of(statistics.means, counts=torch.tensor([74, 100, 126])))


@biases
def test_stiffness_of_deformations_and_rotations(bias):
    """What the anchor holds against, by the derivative of the optimum in the class means."""
    counts, setting = (10, 20, 70), SETTING
    exact = collapsed(counts, setting, bias)
    point = pnc.NearCollapseProblem(exact, **setting, bias=bias)
    found = unequal_classes(point)
    x, sizes, tau = found.lengths, found.sizes, found.threshold
    i, j = len(x) - 2, len(x) - 1
    along = torch.stack([x[i], x[j]]) / torch.stack([x[i], x[j]]).norm()
    stiff = 0.1 * (1 / sizes[i] + 1 / sizes[j]) * (sizes[i] + sizes[j] - 2 * tau)
    for mixed, stiffness in ((along, stiff.item()), (along.flip(0) * torch.tensor([1, -1]), 0.0)):
        change = torch.zeros(len(x), len(x), dtype=torch.float64)
        change[j, i], change[i, j] = mixed[0], mixed[1]  # X = R(diag(x) + Δ), Δ_ij in column j
        step = 1e-4 * found.back @ change @ found.rows
        ends = [
            solved(exact.moved(exact.means + sign * step, exact.within), setting, bias)
            for sign in (1, -1)
        ]
        moved = ends[0].statistics.means - ends[1].statistics.means
        share = (moved * step).sum() / (2 * step * step).sum()
        assert share.item() == pytest.approx(0.7 / (0.7 + stiffness), rel=1e-4)

"""Closed forms near collapse against the solver: what is left falls with the order claimed."""

import dataclasses

import numpy as np
import pytest
import torch
from problems import near_collapse
from vicinities import cases, remainders, slopes, solved

import perturb_nc as pnc
from perturb_nc.theory.vicinity import prediction


@cases
def test_what_is_left_is_of_second_order_over_two_decades(case):
    steps = 1e-2 / 10.0 ** np.arange(3)
    found = slopes(remainders(case, steps), steps)
    np.testing.assert_allclose(found[-1], 2, atol=0.02)
    np.testing.assert_allclose(found, 2, atol=0.15)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_every_order_more_gains_one(bias, order):
    steps = np.array([2e-3, 1e-3])
    errors = remainders({"bias": bias, "uneven": 1.0}, steps, order)
    expected = [order + 1, order + 1, order + 2]  # Σ_W is exact for the weight, which is small
    np.testing.assert_allclose(slopes(errors, steps)[0, :3], expected, atol=0.05)


@pytest.mark.parametrize("bias", [False, True])
def test_derivative_in_the_features_is_the_linear_response(bias):
    setting = {"lambda_w": 0.3, "lambda_h": 0.2}
    exact = pnc.exact_collapse(num_classes=3, dim=6, bias=bias, **setting)
    labels = torch.arange(3).repeat_interleave(4)
    collapsed = exact.means[labels]
    direction = torch.randn_like(collapsed)
    statistics = pnc.ClassStatistics.from_features(collapsed, labels)
    response = pnc.linear_response(
        solved(statistics, {**setting, "beta": 0.7}, bias), collapsed, labels
    )

    def at(step):
        features = collapsed + step * direction
        own = pnc.ClassStatistics.from_features(features, labels)
        found = prediction.small_vicinity(own, **setting, beta=0.7, bias=bias)
        moved = found.features(features, labels)
        again = pnc.ClassStatistics.from_features(moved, labels)
        torch.testing.assert_close(again.means, found.statistics.means)
        torch.testing.assert_close(again.within, found.statistics.within, rtol=1e-9, atol=1e-16)
        return moved, found.weight

    (ahead, weight_ahead), (behind, weight_behind) = at(1e-4), at(-1e-4)
    torch.testing.assert_close(
        (ahead - behind) / 2e-4, response.apply(direction), rtol=0, atol=1e-6
    )
    slope = (weight_ahead - weight_behind) / 2e-4
    torch.testing.assert_close(slope, response.weight(direction), rtol=0, atol=1e-6)


@cases
def test_at_collapse_it_is_exact(case):
    statistics, setting, bias = near_collapse(0.0, **case)
    found = prediction.small_vicinity(statistics, **setting, bias=bias)
    exact = solved(statistics, setting, bias)
    torch.testing.assert_close(found.weight, exact.weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.statistics.means, exact.statistics.means, rtol=0, atol=1e-8)
    assert max(found.remainder.values()) < 1e-13
    assert found.distance < 1e-14
    assert found.certificate.gap < 1e-14
    assert found.is_small


@pytest.mark.parametrize("bias", [False, True])
def test_the_remainder_estimates_the_error_and_the_gap_bounds_the_objective(bias):
    for step in (1e-3, 1e-2, 3e-2):
        statistics, setting, _ = near_collapse(step, bias=bias)
        found = prediction.small_vicinity(statistics, **setting, bias=bias)
        exact = solved(statistics, setting, bias)
        errors = {
            "weight": (found.weight - exact.weight).norm() / exact.weight.norm(),
            "within": (found.statistics.within - exact.statistics.within).norm()
            / exact.statistics.within.norm(),
        }
        for name, error in errors.items():
            assert found.remainder[name] == pytest.approx(error.item(), rel=0.3)
        reached = found.problem.objective(found.weight)
        assert reached - exact.objective <= found.certificate.gap + 1e-15
        assert found.certificate.lower_bound <= exact.objective + 1e-15


def test_far_from_collapse_it_says_so():
    statistics, setting, _ = near_collapse(0.6)
    found = prediction.small_vicinity(statistics, **setting)
    assert found.status is pnc.Status.NOT_SMALL
    assert not found.is_small
    assert "use minimize" in found.status.value
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(40, 9, generator=generator, dtype=torch.float64)
    statistics = pnc.ClassStatistics.from_features(features, torch.arange(40) % 4)
    assert not prediction.small_vicinity(statistics, **setting).is_small
    # Class means far too small for these decays, and no anchor to speak of: r > 1 is not global.
    collapsed = pnc.exact_collapse(num_classes=4, dim=9, lambda_w=0.05, lambda_h=0.05)
    shrunk = dataclasses.replace(collapsed.statistics(5), means=0.02 * collapsed.means)
    far = prediction.small_vicinity(shrunk, lambda_w=0.05, lambda_h=0.05, beta=1.0)
    assert not far.is_small


def test_a_stationary_point_that_is_not_the_optimum_is_not_certified():
    setting = {"lambda_w": 0.246, "lambda_h": 0.115, "beta": 0.252}
    statistics, setting, _ = near_collapse(0.9, num_classes=3, dim=2, bias=True, **setting)
    found = prediction.small_vicinity(statistics, **setting, bias=True, order=30)
    assert max(found.remainder.values()) < 1e-6  # the expansion converges, to what is no optimum
    assert found.certificate.spectral_ratio == pytest.approx(1.15, abs=0.01)
    assert found.status is pnc.Status.NOT_CERTIFIED
    assert not found.is_small
    assert "another optimum may be better" in found.status.value


def test_strong_imbalance_is_taken_class_by_class():
    statistics, setting, _ = near_collapse(1e-4)
    assert prediction.small_vicinity(statistics, **setting).is_small
    # Features that are collapsed for equal classes are some way from the collapse of these.
    uneven = dataclasses.replace(statistics, counts=torch.tensor([30, 30, 30, 910]))
    found = prediction.small_vicinity(uneven, **setting)
    assert found.distance > 0.2
    exact = solved(uneven, setting, bias=False)
    error = (found.weight - exact.weight).norm() / exact.weight.norm()
    assert found.is_small
    assert error.item() == pytest.approx(found.remainder["weight"], rel=0.3)


def test_an_order_that_diverges_is_refused_by_name():
    setting = {"lambda_w": 1.047, "lambda_h": 0.7317, "beta": 0.1827}
    statistics, setting, _ = near_collapse(0.51, num_classes=6, dim=8, **setting)
    with pytest.raises(ValueError, match=r"order must be lower here, got 60: .* use minimize"):
        prediction.small_vicinity(statistics, **setting, order=60)

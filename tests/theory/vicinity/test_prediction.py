"""Closed forms near collapse against the solver: what is left falls with the order claimed."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from problems import near_collapse

import perturb_nc as pnc
from perturb_nc.theory.vicinity import prediction
from perturb_nc.theory.vicinity.coefficients import Mixture, coefficients

CASES = {
    "plain": {},
    "bias": {"bias": True},
    "imbalanced": {"uneven": 1.0},
    "imbalanced, bias": {"uneven": 1.0, "bias": True},
    "two classes": {"num_classes": 2, "dim": 5},
    "two classes, bias": {"num_classes": 2, "dim": 5, "bias": True},
    "no dimension to spare": {"dim": 4},
    "no dimension to spare, bias": {"dim": 3, "bias": True},
    "strong decay": {"lambda_w": 1.4, "lambda_h": 0.3},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def solved(statistics, setting, bias):
    problem = pnc.NearCollapseProblem(statistics, **setting, bias=bias)
    return pnc.minimize(problem, tol=1e-13)


def remainders(case, steps, order=1):
    """Errors of weight, means, Σ_W (and bias) for every step."""
    rows = []
    for step in steps:
        statistics, setting, bias = near_collapse(step, **case)
        found = prediction.small_vicinity(statistics, **setting, bias=bias, order=order)
        exact = solved(statistics, setting, bias)
        errors = [
            found.weight - exact.weight,
            found.statistics.means - exact.statistics.means,
            found.statistics.within - exact.statistics.within,
        ]
        errors += [found.bias - exact.bias] if bias else []
        rows.append([error.norm().item() for error in errors])
    return np.array(rows)


def slopes(errors, steps):
    return np.diff(np.log(errors), axis=0) / np.diff(np.log(steps))[:, None]


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


def bent(scalars, part):
    """Coefficients with one of them 1 % larger."""
    group, _, name = part.rpartition(".")
    if not group:
        return dataclasses.replace(scalars, **{name: 1.01 * getattr(scalars, name)})
    mixture = getattr(scalars, group)
    changed = mixture._replace(**{name: 1.01 * getattr(mixture, name)})
    return dataclasses.replace(scalars, **{group: changed})


FIRST = [f"{group}.{name}" for group in ("means", "weight") for name in Mixture._fields]
SECOND = ["symmetric", "rotation", "off_span"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("part", [*FIRST, "gamma_in", "gamma_out", *SECOND])
def test_a_one_percent_mutation_of_any_coefficient_is_seen(part, bias, monkeypatch):
    order = 2 if part in SECOND else 1
    monkeypatch.setattr(prediction, "coefficients", lambda *a: bent(coefficients(*a), part))
    steps = np.array([2e-5, 1e-5]) if order == 1 else np.array([2e-4, 1e-4])
    errors = remainders({"bias": bias, "uneven": 1.0}, steps, order)[:, : 4 - order]
    assert slopes(errors, steps).min() < order + 0.6


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


def test_attenuations_are_eigenvalues_of_the_response():
    statistics, setting, _ = near_collapse(0.01)
    found = prediction.small_vicinity(statistics, **setting)
    spectrum = pnc.near_collapse_spectrum(num_classes=4, dim=9, samples_per_class=5, **setting)
    scalars = coefficients(*(torch.tensor(v, dtype=torch.float64) for v in setting.values()), 4)
    own = [found.gamma_in, found.gamma_out, 1.0, scalars.means.stretch.value.item()]
    np.testing.assert_allclose(own, spectrum.eigenvalues, rtol=1e-14)


@pytest.mark.parametrize("bias", [False, True])
def test_limits_of_beta(bias):
    statistics, setting, _ = near_collapse(0.03, bias=bias)
    held = prediction.small_vicinity(statistics, **{**setting, "beta": 1e9}, bias=bias).statistics
    torch.testing.assert_close(held.means, statistics.means, rtol=0, atol=1e-7)
    torch.testing.assert_close(held.within, statistics.within, rtol=0, atol=1e-7)
    free = prediction.small_vicinity(statistics, **{**setting, "beta": 1e-9}, bias=bias)
    own = free.statistics.means - free.statistics.means.mean(0) * bias
    torch.testing.assert_close(own, free.size * free.frame, rtol=0, atol=1e-7)
    assert free.statistics.within.abs().max() < 1e-15


def test_towards_c0_equal_one_the_optimum_vanishes():
    statistics, setting, _ = near_collapse(0.01, lambda_h=0.9999 / 0.3)
    weak = {**setting, "beta": 1e-3}
    found = prediction.small_vicinity(statistics, **weak)
    assert found.size == pytest.approx(
        math.sqrt((1 - math.sqrt(0.9999)) * math.sqrt(0.3 / setting["lambda_h"]))
    )
    assert not found.is_small  # the distance is large against means that vanish
    with pytest.raises(ValueError, match=r"lambda_w \* lambda_h must be < 1, got 1; from 1 on"):
        prediction.small_vicinity(statistics, lambda_w=0.5, lambda_h=2.0, beta=1.0)


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
    assert found.certificate.spectral_ratio == pytest.approx(1.154, abs=1e-3)
    assert found.status is pnc.Status.NOT_CERTIFIED
    assert not found.is_small
    assert "another optimum may be better" in found.status.value


def test_strong_imbalance_is_not_small():
    statistics, setting, _ = near_collapse(1e-4)
    assert prediction.small_vicinity(statistics, **setting).is_small
    counts = torch.tensor([10, 10, 10, 970])
    uneven = dataclasses.replace(statistics, counts=counts)
    found = prediction.small_vicinity(uneven, **setting)
    assert found.distance < 0.02  # which knows nothing of class sizes
    assert found.status is pnc.Status.NOT_SMALL
    exact = solved(uneven, setting, bias=False)
    assert (found.weight - exact.weight).norm() > 0.1 * exact.weight.norm()


def test_an_order_that_diverges_is_refused_by_name():
    setting = {"lambda_w": 1.047, "lambda_h": 0.7317, "beta": 0.1827}
    statistics, setting, _ = near_collapse(0.51, num_classes=6, dim=8, **setting)
    with pytest.raises(ValueError, match=r"order must be lower here, got 60: .* use minimize"):
        prediction.small_vicinity(statistics, **setting, order=60)


def test_frame_size_and_distance():
    statistics, setting, _ = near_collapse(0.05, bias=True)
    found = prediction.small_vicinity(statistics, **setting, bias=True)
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found.frame @ found.frame.mT, identity - 0.25)
    centred = statistics.centered_means
    nuclear = torch.linalg.svdvals(centred).sum()  # of all frames the nearest has this overlap
    torch.testing.assert_close((centred * found.frame).sum(), nuclear)
    gap = (centred - found.size * found.frame).square().sum() / 4 + statistics.within.trace()
    assert found.distance == pytest.approx(math.sqrt(gap / (found.size**2 * 3 / 4)))
    expected = pnc.collapse_metrics(found.statistics, found.weight).as_dict()
    assert found.metrics.as_dict() == pytest.approx(expected, nan_ok=True)


@pytest.mark.usefixtures("unchecked")
def test_refuses_what_has_no_nearest_frame():
    statistics, setting, _ = near_collapse(0.01)
    for change, message in (
        ({"lambda_h": 0.0}, "lambda_h must be > 0, got 0.0"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"order": 0}, "order must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            prediction.small_vicinity(statistics, **{**setting, **change})
    centred = dataclasses.replace(statistics, means=statistics.centered_means)
    with pytest.raises(ValueError, match=r"linearly independent, got .* or bias=True"):
        prediction.small_vicinity(centred, **setting)
    flat = dataclasses.replace(
        statistics, means=statistics.means[:, :3], within=statistics.within[:3, :3]
    )
    with pytest.raises(ValueError, match=r"statistics must have dim >= 4 .* got 3"):
        prediction.small_vicinity(flat, **setting)
    assert prediction.small_vicinity(flat, **setting, bias=True).frame.shape == (4, 3)
    found = prediction.small_vicinity(statistics, **setting)
    with pytest.raises(ValueError, match="reference_features must have dimension 9, got 3"):
        found.features(torch.zeros(2, 3), [0, 1])


@cases
def test_derivatives_against_central_differences(case):
    statistics, setting, bias = near_collapse(0.02, **case)
    found = prediction.small_vicinity(statistics, **setting, bias=bias).derivatives
    for name, value in setting.items():
        step = 1e-5 * value
        ahead, behind = (
            prediction.small_vicinity(statistics, **{**setting, name: value + change}, bias=bias)
            for change in (step, -step)
        )

        def close(derivative, upper, lower, step=step):
            difference = (upper - lower) / (2 * step)
            torch.testing.assert_close(derivative, difference, rtol=1e-6, atol=1e-8)

        close(found.weight[name], ahead.weight, behind.weight)
        close(found.means[name], ahead.statistics.means, behind.statistics.means)
        close(found.within[name], ahead.statistics.within, behind.statistics.within)
        upper, lower = ahead.metrics.as_dict(), behind.metrics.as_dict()
        for metric, derivative in found.metrics[name].items():
            if math.isfinite(derivative):
                difference = (upper[metric] - lower[metric]) / (2 * step)
                assert derivative == pytest.approx(difference, rel=1e-5, abs=1e-7), metric
        assert math.isfinite(found.metrics[name]["nc1"])


@pytest.mark.parametrize("bias", [False, True])
def test_derivatives_against_those_of_the_optimum(bias):
    steps, gaps = np.array([4e-3, 2e-3]), []
    for step in steps:
        statistics, setting, _ = near_collapse(step, bias=bias, uneven=1.0)
        found = prediction.small_vicinity(statistics, **setting, bias=bias).derivatives
        exact = pnc.hyperparameter_response(solved(statistics, setting, bias))
        row = [
            (getattr(found, part)[name] - getattr(exact, part)[name]).norm().item()
            for part in ("weight", "means", "within")
            for name in setting
        ]
        row += [abs(found.objective[name] - exact.objective[name]) for name in setting]
        gaps.append(row)
    # λ_W and λ_H move √ρ, and with it the distance whose square is left out: one order less.
    found = slopes(np.array(gaps), steps)[0, :9].reshape(3, 3)
    np.testing.assert_allclose(found[:, :2], 1, atol=0.15)
    np.testing.assert_allclose(found[:, 2], 2, atol=0.05)
    assert slopes(np.array(gaps), steps)[0, 9:].min() > 1.9

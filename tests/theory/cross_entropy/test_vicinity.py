"""Closed forms near collapse with cross-entropy against the solver: orders of what is left."""

import dataclasses

import numpy as np
import pytest
import torch
from near_cross_entropy import CASES, near_collapse, remainders, slopes

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.vicinity import cross_entropy_vicinity

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
fast = pytest.mark.usefixtures("unchecked")  # many solves, types checked by the other tests


@fast
@cases
def test_what_is_left_is_of_second_order_over_two_decades(case):
    steps = 1e-2 / 10.0 ** np.arange(3)
    found = slopes(remainders(case, steps), steps)
    np.testing.assert_allclose(found[-1], 2, atol=0.02)
    np.testing.assert_allclose(found, 2, atol=0.15)


@fast
@pytest.mark.parametrize("bias", [True, False])
def test_imbalance_is_of_first_order_too(bias):
    # One class of 4 larger by `step`, one smaller; whole samples leave less than two decades.
    steps = np.array([0.02, 0.01, 0.005])
    sizes = [[800, 800 + round(800 * s), 800 - round(800 * s), 800] for s in steps]
    rows = [
        remainders({"counts": counts, "bias": bias}, [s])[0]
        for s, counts in zip(steps, sizes, strict=True)
    ]
    np.testing.assert_allclose(slopes(np.array(rows), steps), 2, atol=0.1)


@fast
def test_third_moments_are_what_it_leaves_out():
    steps = np.array([1e-3, 1e-4])
    found = slopes(remainders({"skew": 0.5}, steps), steps)[0]
    np.testing.assert_allclose(found[[0, 2, 3]], 1.5, atol=0.1)


@fast
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_every_order_more_gains_one(bias, order):
    steps = np.array([8e-3, 4e-3])
    found = slopes(remainders({"bias": bias}, steps, order), steps)[0]
    np.testing.assert_allclose(found[:2], order + 1, atol=0.1)
    assert found[2] > order + 1.8  # Σ_W is exact for the weight, and is small


@cases
def test_at_collapse_it_is_exact(case):
    problem = near_collapse(0.0, **{**case, "offset": 0.0})
    found, exact = cross_entropy_vicinity(problem), pnc.minimize(problem)
    torch.testing.assert_close(found.weight, exact.weight, rtol=0, atol=1e-8)
    torch.testing.assert_close(found.statistics.means, exact.statistics.means, rtol=0, atol=1e-8)
    assert max(found.remainder["weight"], found.remainder["means"]) < 1e-12
    assert found.distance < 1e-13
    assert found.certificate.gap < 1e-13
    slopes_of_it, wanted = found.derivatives, pnc.hyperparameter_response(exact)
    for name, value in wanted.means.items():
        torch.testing.assert_close(slopes_of_it.means[name], value, rtol=0, atol=1e-6)
        torch.testing.assert_close(
            slopes_of_it.weight[name], wanted.weight[name], rtol=0, atol=1e-6
        )
        assert slopes_of_it.objective[name] == pytest.approx(wanted.objective[name], abs=1e-9)


def test_derivatives_are_those_of_the_closed_form():
    problem, h = near_collapse(1e-2), 1e-5
    found = cross_entropy_vicinity(problem).derivatives

    def at(name, step):
        value = getattr(problem, name) + step
        return cross_entropy_vicinity(dataclasses.replace(problem, **{name: value}))

    for name in ("lambda_w", "lambda_h", "beta"):
        up, down = at(name, h), at(name, -h)
        slope = (up.statistics.within - down.statistics.within) / (2 * h)
        torch.testing.assert_close(found.within[name], slope, rtol=1e-6, atol=1e-9)
        for metric in ("nc1_trace", "nc1", "nc2_etf", "nc3_duality", "cdnv"):
            slope = (getattr(up.metrics, metric) - getattr(down.metrics, metric)) / (2 * h)
            assert found.metrics[name][metric] == pytest.approx(slope, rel=1e-5)


def test_derivatives_are_those_of_the_optimum_but_for_the_order_left_out():
    errors = []
    for step in (2e-3, 1e-3):
        problem = near_collapse(step)
        found = cross_entropy_vicinity(problem).derivatives
        exact = pnc.hyperparameter_response(pnc.minimize(problem, tol=1e-12))
        own = [
            abs(found.metrics["beta"][m] / exact.metrics["beta"][m] - 1) for m in ("nc1", "cdnv")
        ]
        own += [
            ((found.means[p] - exact.means[p]).norm() / exact.means[p].norm()).item()
            for p in ("lambda_w", "lambda_h")
        ]
        errors.append(own)
    assert np.max(errors[1]) < 0.05
    np.testing.assert_allclose(np.log2(np.array(errors[0]) / errors[1]), 1, atol=0.1)


def test_features_are_the_statistics_predicted():
    problem = near_collapse(1e-3, skew=0.3)
    for order in (1, 2):
        found = cross_entropy_vicinity(problem, order=order)
        moved = found.features(problem.features, problem.labels)
        again = pnc.ClassStatistics.from_features(moved, problem.labels)
        torch.testing.assert_close(again.means, found.statistics.means)
        torch.testing.assert_close(again.within, found.statistics.within, rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(again.class_variance, found.statistics.class_variance)


def test_the_remainder_estimates_the_error_and_the_gap_bounds_the_objective():
    for step in (1e-3, 1e-2):
        problem = near_collapse(step)
        found, exact = cross_entropy_vicinity(problem), pnc.minimize(problem, tol=1e-12)
        pairs = {
            "weight": (found.weight, exact.weight),
            "means": (found.statistics.means, exact.statistics.means),
            "within": (found.statistics.within, exact.statistics.within),
        }
        for name, (own, wanted) in pairs.items():
            error = ((own - wanted).norm() / wanted.norm()).item()
            assert found.remainder[name] == pytest.approx(error, rel=0.3)
        assert found.is_small
        reached = problem.objective(found.weight)
        assert reached - exact.objective <= found.certificate.gap + 1e-15
        assert found.certificate.lower_bound <= exact.objective + 1e-15


def test_far_from_collapse_it_says_so():
    found = cross_entropy_vicinity(near_collapse(3.0))
    assert found.status is pnc.Status.NOT_SMALL
    assert not found.is_small
    assert found.gamma_towards < found.gamma_in < found.gamma_out
    assert "gamma_in" in str(found)


def test_with_weak_decay_deviations_are_not_contracted():
    # p_other ~ c0: where the squared loss keeps contracting in the span, cross-entropy stops.
    kept = [
        cross_entropy_vicinity(near_collapse(0.0, lambda_w=s, lambda_h=s)).gamma_in
        for s in (1e-1, 1e-3, 1e-5)
    ]
    assert kept == sorted(kept)
    assert kept[-1] > 0.999


def test_what_has_no_closed_form_is_refused_by_name():
    problem = near_collapse(0.01)
    for change, message in (
        ({"class_weights": (1.0, 1.0, 1.0, 2.0)}, r"class_weights have no collapsed optimum in"),
        ({"lambda_h": 0.0}, r"lambda_h must be > 0, got 0"),
        ({"beta": 0.0}, r"beta must be > 0, got 0"),
        ({"lambda_w": 5.0}, r"sqrt\(lambda_w \* lambda_h\) must be < 1, got 1; from there on"),
    ):
        with pytest.raises(ValueError, match=message):
            cross_entropy_vicinity(dataclasses.replace(problem, **change))
    with pytest.raises(ValueError, match="order must be >= 1, got 0"):
        cross_entropy_vicinity(problem, order=0)
    narrow = dataclasses.replace(problem, features=problem.features[:, :2])
    with pytest.raises(ValueError, match="statistics must have dim >= 3 for a frame"):
        cross_entropy_vicinity(narrow)

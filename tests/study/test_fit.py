"""Fits: known parameters come back, and what is not known is said to be so."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from fits import TRUE, fast, logs, misfit_of, noisy_pair, optimum, sampled
from problems import random_problem
from scipy.optimize import minimize_scalar

import perturb_nc as pnc

SOME = [(), *combinations(TRUE, 1), ("lambda_w", "beta")]


def statistics(seed=0, **shape):
    return random_problem(seed=seed, **shape).reduced.statistics


@pytest.fixture(scope="module")
def noisy():
    return noisy_pair()


@fast
@pytest.mark.parametrize("fixed", SOME, ids="-".join)
def test_known_parameters_come_back(fixed):
    reference = statistics(dim=7, counts=(3, 9, 6))
    fit = pnc.fit_regularization(reference, optimum(reference), **{n: TRUE[n] for n in fixed})
    assert fit.status is pnc.Status.CONVERGED
    assert set(fit.standard_error) == set(TRUE) - set(fixed)
    for name, value in TRUE.items():
        assert getattr(fit, name) == pytest.approx(value, rel=1e-6)
        assert getattr(fit, name) != pytest.approx(1.01 * value, rel=1e-6)
    assert fit.residual < 1e-7
    assert fit.unchanged > 0.05
    assert max(fit.standard_error.values()) < 1e-5
    assert fit.solution.status is pnc.Status.CONVERGED
    assert fit.solution.certificate == pnc.minimize(fit.solution.problem).certificate


@pytest.mark.slow
@fast
@pytest.mark.parametrize(
    ("bias", "shape", "true"),
    [
        (True, {"dim": 7, "counts": (3, 9, 6), "offset": 3.0}, {}),
        (False, {"dim": 70, "counts": (30, 50, 40)}, {"lambda_w": 0.3, "beta": 4.0}),
        (False, {"dim": 3, "num_classes": 2}, {"lambda_h": 0.2, "beta": 0.1}),
        (False, {"dim": 12}, {"lambda_w": 1e-3, "lambda_h": 1e-3, "beta": 0.2}),
    ],
)
def test_known_parameters_come_back_from_other_problems(bias, shape, true):
    reference = statistics(2, **shape)
    fit = pnc.fit_regularization(reference, optimum(reference, bias, **true), bias=bias)
    for name, value in {**TRUE, **true}.items():
        assert getattr(fit, name) == pytest.approx(value, rel=1e-6)


@pytest.mark.slow
def test_fits_in_two_threads_are_the_fits_of_one(noisy):
    def fit(_):
        found = pnc.fit_regularization(*noisy, lambda_w=0.03)
        return found.lambda_h, found.beta, found.residual, found.covariance

    alone = fit(0)
    with ThreadPoolExecutor(2) as pool:
        assert all(found == alone for found in pool.map(fit, range(6)))


@fast
def test_one_parameter_against_a_scalar_minimiser(noisy):
    fit = pnc.fit_regularization(*noisy, lambda_w=0.1, lambda_h=0.0)
    assert (fit.lambda_w, fit.lambda_h) == pytest.approx((0.1, 0.0), rel=1e-15)
    found = minimize_scalar(
        lambda x: math.hypot(*misfit_of(*noisy, lambda_w=0.1, lambda_h=0.0, beta=math.exp(x))),
        bounds=(-4, 4),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert math.log(fit.beta) == pytest.approx(found.x, abs=1e-5)


@fast
def test_rotations_relabelling_and_scale_change_nothing_else(noisy):
    reference, observed = noisy
    fit = pnc.fit_regularization(reference, observed)
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.tensor([2, 0, 1])

    def turned(s):
        within = rotation.mT @ s.within @ rotation
        return replace(s, means=s.means @ rotation, within=0.5 * (within + within.mT))

    def relabelled(s):
        return pnc.ClassStatistics(
            s.counts[order], s.means[order], s.within, s.class_variance[order]
        )

    def scaled(s):
        return pnc.ClassStatistics(s.counts, 10 * s.means, 100 * s.within, 100 * s.class_variance)

    for change, factors in ((turned, 1), (relabelled, 1), (scaled, [100, 0.01, 0.01])):
        other = pnc.fit_regularization(change(reference), change(observed))
        np.testing.assert_allclose(logs(other), logs(fit) + np.log(factors), atol=1e-5)
        assert other.residual == pytest.approx(fit.residual, rel=1e-8)
        for name, error in fit.standard_error.items():
            assert other.standard_error[name] == pytest.approx(error, rel=1e-4)


@pytest.mark.slow
@fast
def test_standard_errors_are_the_spread_over_samples(noisy):
    true = {"lambda_w": 0.5, "lambda_h": 0.1, "beta": 0.5}  # where all are determined well
    population, generator = optimum(noisy[0], **true), torch.Generator().manual_seed(0)
    fits = [pnc.fit_regularization(noisy[0], sampled(population, generator)) for _ in range(40)]
    errors = np.array([list(fit.standard_error.values()) for fit in fits])
    assert errors.max() < 0.25
    found = np.array([logs(fit) for fit in fits]) - np.log(list(true.values()))
    ratio = found.std(0, ddof=1) / np.sqrt(np.square(errors).mean(0))
    assert ((ratio > 0.65) & (ratio < 1.5)).all(), ratio  # 40 draws: 11 % either way
    assert np.mean(abs(found) < 2 * errors) > 0.9
    assert (abs(found) < 4 * errors).all()


@pytest.mark.slow
@fast
def test_standard_errors_do_not_depend_on_n_but_on_the_misfit(noisy):
    reference, observed = noisy
    fit = pnc.fit_regularization(reference, observed)
    more = [replace(s, counts=100 * s.counts) for s in noisy]
    again = pnc.fit_regularization(*more)
    assert again.standard_error == pytest.approx(fit.standard_error, rel=1e-4)
    predicted = optimum(reference)
    nearer = observed.moved(
        predicted.means + 0.01 * (observed.means - predicted.means),
        predicted.within + 0.01 * (observed.within - predicted.within),
    )
    close = pnc.fit_regularization(reference, nearer)
    for name, error in close.standard_error.items():
        assert 0.005 < error / fit.standard_error[name] < 0.02


def simplex(num_classes, dim, spread):
    """Orthogonal class means of norm 2, and Σ_W = spread² I."""
    means = 2 * torch.eye(num_classes, dim, dtype=torch.float64)
    within = spread**2 * torch.eye(dim, dtype=torch.float64)
    counts = torch.full((num_classes,), 10)
    variance = within.trace().repeat(num_classes)
    return pnc.ClassStatistics(counts, means, within, variance)


@fast
@pytest.mark.parametrize(
    ("dim", "spread", "numbers"),
    [(5, 0.3, 3), (3, 0.3, 2), (5, 0.0, 1)],  # size of the means, Σ_W in their span, outside
)
def test_orthogonal_means_give_one_number_each(dim, spread, numbers):
    reference = simplex(3, dim, spread)
    observed = optimum(reference)
    for fixed in ((), ("beta",), ("lambda_w", "beta")):
        fit = pnc.fit_regularization(reference, observed, **{n: TRUE[n] for n in fixed})
        assert fit.residual < 1e-6
        if 3 - len(fixed) <= numbers:
            assert fit.status is pnc.Status.CONVERGED
            np.testing.assert_allclose(logs(fit), np.log(list(TRUE.values())), atol=1e-5)
        else:
            assert fit.status is pnc.Status.NOT_DETERMINED
            assert math.inf in fit.standard_error.values()


@fast
def test_a_parameter_at_the_end_of_its_range_is_named(noisy):
    reference = noisy[0]
    observed = optimum(reference, lambda_h=0.0)
    fit = pnc.fit_regularization(reference, observed)
    assert fit.status is pnc.Status.AT_BOUND
    assert fit.at_bound == {"lambda_h": "low"}
    assert not fit.status.is_done
    assert [name for name, e in fit.standard_error.items() if e == math.inf] == ["lambda_h"]
    assert "hold it fixed (λ_H at 0" in fit.status.value
    low, high = fit.interval("lambda_h")
    assert low == 0.0
    assert high < 1e-4
    fixed = pnc.fit_regularization(reference, observed, lambda_h=0.0)
    assert fixed.status is pnc.Status.CONVERGED
    assert not fixed.at_bound
    assert (fixed.lambda_w, fixed.beta) == pytest.approx((0.05, 0.5), rel=1e-6)


@pytest.mark.slow
@fast
def test_intervals_cover_where_standard_errors_do_not():
    """λ_W hardly matters at n = 200: a third of the fits runs to an end of its range."""
    reference = statistics(dim=6, counts=(200, 200, 200))
    population, generator = optimum(reference), torch.Generator().manual_seed(5)
    covered, ends, draws = np.zeros(3), 0, 40
    for _ in range(draws):
        fit = pnc.fit_regularization(reference, sampled(population, generator))
        assert fit.status in (pnc.Status.CONVERGED, pnc.Status.AT_BOUND)
        assert set(fit.at_bound) <= {"lambda_w"}
        ends += bool(fit.at_bound)
        found = [fit.interval(name) for name in TRUE]
        covered += [low <= v <= high for (low, high), v in zip(found, TRUE.values(), strict=True)]
    assert ends > 0
    assert (covered / draws > 0.85).all(), covered  # .95 ± .034


def test_a_fit_cut_short_says_so(noisy):
    assert pnc.fit_regularization(*noisy, max_steps=1).status is pnc.Status.MAX_STEPS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lambda_w": 0.0}, "lambda_w must be > 0, got 0.0"),
        ({"lambda_h": -1.0}, "lambda_h must be >= 0, got -1.0"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"beta": math.nan}, "beta must be finite, got nan"),
        (TRUE, "nothing to fit: leave lambda_w, lambda_h or beta out"),
        ({"max_steps": 0}, "max_steps must be >= 1, got 0"),
    ],
)
def test_bad_arguments_are_named(noisy, changed, message):
    with pytest.raises(ValueError, match=message):
        pnc.fit_regularization(*noisy, **changed)


def test_statistics_that_do_not_fit_together_are_named(noisy):
    reference, observed = noisy
    with pytest.raises(ValueError, match=r"shape \(K, d\) of reference, \(3, 6\), got \(4, 6\)"):
        pnc.fit_regularization(reference, statistics(dim=6))
    with pytest.raises(ValueError, match=r"reference, \(3, 6\), got \(3, 7\)"):
        pnc.fit_regularization(reference, statistics(dim=7, num_classes=3))
    with pytest.raises(ValueError, match=r"counts are \[3, 9, 6\] for \[2000, 2000, 2000\]"):
        pnc.fit_regularization(reference, statistics(dim=6, counts=(3, 9, 6)))
    with pytest.raises(ValueError, match="class means must not all be 0"):
        pnc.fit_regularization(reference, observed.moved(0 * observed.means, observed.within))
    with pytest.raises(ValueError, match="observed has no within-class variability"):
        pnc.fit_regularization(reference, observed.moved(observed.means, 0 * observed.within))
    with pytest.raises(ValueError, match="means must be finite"):
        pnc.fit_regularization(
            reference, observed.moved(math.nan * observed.means, observed.within)
        )


def test_a_fit_takes_a_time_limit_and_tells_of_its_progress(monkeypatch):
    start = random_problem(seed=3).reduced.statistics
    problem = pnc.NearCollapseProblem(start, lambda_w=0.05, lambda_h=0.02, beta=0.7)
    observed = pnc.minimize(problem).statistics
    fixed = {"lambda_w": 0.05, "lambda_h": 0.02}
    told = []
    whole = pnc.fit_regularization(start, observed, **fixed, progress=lambda *a: told.append(a))
    assert whole.status is pnc.Status.CONVERGED
    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert told[-1][1] < told[0][1]
    short = pnc.fit_regularization(start, observed, **fixed, time_limit=1e-9)
    assert short.status is pnc.Status.TIME_LIMIT
    assert whole.residual <= short.residual <= short.unchanged
    with pytest.raises(ValueError, match="time_limit must be > 0, got 0"):
        pnc.fit_regularization(start, observed, **fixed, time_limit=0.0)

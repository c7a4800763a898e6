import dataclasses

import numpy as np
import pytest
import torch
from problems import near_collapse

import perturb_nc as pnc
from perturb_nc.theory import collapse_under_noise, decay_effects, stronger_decay

GRID = np.geomspace(0.02, 3, 12)


def limits(case, outside, shift):
    """Derivatives a hair from collapse, at a grid of settings where features are near collapse."""
    rows = []
    for w in GRID[::3]:
        for h in GRID[::3]:
            if w * h >= 0.9:
                continue
            statistics, setting, bias = near_collapse(
                1e-6, lambda_w=w, lambda_h=h, beta=0.7, **case
            )
            frame = pnc.theory.vicinity.frame.nearest_frame(statistics, bias)
            inside = frame.rows.mT @ frame.rows
            off = torch.eye(statistics.dim).to(inside) - inside
            within = shift * ((1 - outside) * inside / inside.trace() + outside * off / off.trace())
            statistics = dataclasses.replace(
                statistics,
                within=within,
                class_variance=within.trace().expand(statistics.num_classes).clone(),
            )
            found = pnc.small_vicinity_batch(statistics, **setting, bias=bias).derivatives
            values = pnc.small_vicinity_batch(statistics, **setting, bias=bias).metrics
            effects = decay_effects(**setting, outside=outside)
            rows += [
                (name, parameter, (slope / values[name]).item(), effects[name][parameter].item())
                for name, slopes in found.items()
                for parameter, slope in slopes.items()
            ]
    return rows


@pytest.mark.parametrize("outside", [0.0, 0.7])
@pytest.mark.parametrize("case", [{}, {"bias": True}], ids=["plain", "bias"])
def test_effects_are_the_derivatives_at_collapse(case, outside):
    rows = limits(case, outside, 1e-11)  # below the deviations of the means: NC2 is theirs
    assert len(rows) > 60
    for name, parameter, slope, effect in rows:
        assert effect == pytest.approx(slope, rel=2e-4, abs=2e-4), (name, parameter)


def test_where_the_effects_turn():
    beta = np.geomspace(0.01, 100, 9)[:, None]
    c0 = np.linspace(0.01, 0.99, 99)
    for ratio in (0.1, 1.0, 20.0):
        setting = {"lambda_w": c0 / ratio, "lambda_h": c0 * ratio, "beta": beta}
        effects, stronger = decay_effects(**setting), stronger_decay(**setting)
        off = {**setting, "outside": 0.999}
        assert (effects["nc1"]["lambda_w"] > 0).all()
        assert (stronger["nc1"] < 0).all()
        rising = np.broadcast_to(c0 > 0.5, (9, 99))
        away = abs(c0 - 0.5) > 1e-9
        for name in ("nc1", "nc2_etf"):
            np.testing.assert_array_equal((effects[name]["lambda_h"] > 0)[:, away], rising[:, away])
        away = abs(c0 - 0.25) > 1e-9
        found = (effects["nc2_etf"]["lambda_w"] > 0).numpy()
        np.testing.assert_array_equal(found[:, away], np.broadcast_to(c0 > 0.25, (9, 99))[:, away])
        away = abs(c0 - 0.4) > 1e-9
        found = (stronger["nc2_etf"] > 0).numpy()
        np.testing.assert_array_equal(found[:, away], np.broadcast_to(c0 < 0.4, (9, 99))[:, away])
        assert (stronger_decay(**off)["nc1_trace"] > 0).any()  # off the span λ_H alone contracts
        same = stronger_decay(**setting, outside=0.0)
        torch.testing.assert_close(same["nc1_trace"], same["nc1"])
    assert decay_effects(lambda_w=2.0, lambda_h=0.5, beta=1.0)["nc1"]["beta"].isfinite()
    assert decay_effects(lambda_w=2.0, lambda_h=0.5, beta=1.0)["nc2_etf"]["beta"].isnan()


@pytest.mark.parametrize("bias", [False, True])
def test_noise_on_a_collapsed_network(bias):
    # Squares of small deviations are quadratic forms: their expectation is the sum over the
    # independent directions of the noise, each solved by itself.
    k, d, n, step = 4, 6, 5, 1e-4
    setting = {"lambda_w": 0.3, "lambda_h": 0.2, "beta": 0.7}
    decay = {"lambda_w": 0.3, "lambda_h": 0.2}
    exact = pnc.exact_collapse(num_classes=k, dim=d, bias=bias, seed=2, **decay)
    root = torch.randn(d, d, dtype=torch.float64)
    labels = torch.arange(k).repeat_interleave(n)
    found = np.zeros(3)
    for sample in range(0, k * n, n):  # the n samples of a class are alike
        for direction in root.mT:
            features = exact.means[labels].clone()
            features[sample] += step * direction
            statistics = pnc.ClassStatistics.from_features(features, labels)
            problem = pnc.NearCollapseProblem(statistics, **setting, bias=bias)
            optimum = pnc.minimize(problem, tol=1e-12)
            metrics = pnc.collapse_metrics(optimum.statistics, optimum.weight)
            found += [n * metrics.nc1_trace, n * metrics.nc1, n * metrics.nc2_etf**2]
    covariance = step**2 * root @ root.mT
    expected = collapse_under_noise(exact, covariance, samples_per_class=n, **setting)
    expected = [expected.nc1_trace, expected.nc1, expected.nc2_etf**2]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_two_classes_stay_a_simplex_under_noise():
    exact = pnc.exact_collapse(num_classes=2, dim=4, lambda_w=0.3, lambda_h=0.2)
    setting = {"samples_per_class": 5, "lambda_w": 0.3, "lambda_h": 0.2, "beta": 1.0}
    found = collapse_under_noise(exact, torch.eye(4).double(), **setting)
    assert found.nc2_etf == 0
    assert found.nc1_trace > found.nc1 > 0


@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_refused_by_name():
    with pytest.raises(ValueError, match=r"outside must be <= 1, a share, got 1\.5"):
        decay_effects(lambda_w=0.1, lambda_h=0.1, beta=1.0, outside=1.5)
    with pytest.raises(ValueError, match=r"lambda_w must be > 0 and finite, got -1\.0"):
        stronger_decay(lambda_w=[0.1, -1.0], lambda_h=0.1, beta=1.0)
    zero = pnc.exact_collapse(num_classes=2, dim=4, lambda_w=2.0, lambda_h=2.0)
    setting = {"lambda_w": 2.0, "lambda_h": 2.0, "beta": 1.0, "samples_per_class": 5}
    with pytest.raises(ValueError, match="rho of the collapse"):
        collapse_under_noise(zero, torch.eye(4), **setting)
    fine = pnc.exact_collapse(num_classes=2, dim=4, lambda_w=0.1, lambda_h=0.1)
    with pytest.raises(ValueError, match="covariance must have shape"):
        collapse_under_noise(fine, torch.eye(3), **setting)
    with pytest.raises(ValueError, match="samples_per_class must be >= 2, got 1"):
        collapse_under_noise(fine, torch.eye(4), **{**setting, "samples_per_class": 1})

import math

import numpy as np
import pytest
import torch
from problems import near_collapse
from vicinities import cases, slopes, solved

import perturb_nc as pnc
from perturb_nc.theory.vicinity import prediction


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

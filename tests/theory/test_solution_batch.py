import math
from itertools import pairwise

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc

GRID = {
    "lambda_w": [0.05, 0.2, 0.01, 0.05, 3.0, 0.05, 1e-3],
    "lambda_h": [0.02, 0.0, 0.1, 0.02, 2.0, 0.5, 1e-3],
    "beta": [0.5, 0.5, 3.0, 0.05, 0.3, 0.0, 0.2],
}


def statistics(seed=0, **shape):
    return random_problem(seed=seed, **shape).reduced.statistics


def settings_of(found, i):
    return {name: float(getattr(found, name)[i]) for name in GRID}


WIDE = {"dim": 70, "counts": (30, 50, 40)}  # where the batch is solved on a subspace


@pytest.mark.parametrize("shape", [{"dim": 8}, WIDE])
def test_derivatives_are_the_response_in_logs(shape):
    found = pnc.minimize_batch(statistics(**shape), **GRID)
    slopes = found.derivatives()
    for i in (0, 2, 3):
        response = pnc.hyperparameter_response(found.solution(i))
        for parameter in GRID:
            scale = settings_of(found, i)[parameter]
            for name in ("nc1", "nc1_trace", "nc2_etf", "cdnv", "nc3_duality"):
                expected = response.metrics[parameter][name] * scale
                assert float(slopes[name][parameter][i]) == pytest.approx(expected, rel=1e-5)
            expected = response.objective[parameter] * scale
            assert float(slopes["objective"][parameter][i]) == pytest.approx(expected, rel=1e-5)
    assert slopes["nc1"]["lambda_w"][5].isnan()  # beta = 0: a continuum of optima


@pytest.mark.parametrize("parameter", ["lambda_w", "lambda_h", "beta"])
def test_derivatives_against_central_differences(parameter):
    reference, h = statistics(**WIDE), 1e-4
    base = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}
    shifted = [{**base, parameter: base[parameter] * math.exp(s)} for s in (0.0, h, -h)]
    found = pnc.minimize_batch(reference, **{name: [x[name] for x in shifted] for name in base})
    for name in ("nc1", "nc2_etf", "cdnv", "dnc2"):
        slope = float(found.derivatives()[name][parameter][0])
        values = found.metrics[name]
        difference = float((values[1] - values[2]) / (2 * h))
        assert slope == pytest.approx(difference, rel=1e-5)
        assert 1.01 * slope != pytest.approx(difference, rel=1e-5)


def test_predicted_weight_is_right_to_first_order():
    reference = statistics(**WIDE)
    one = pnc.minimize_batch(reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.5])
    errors = []
    for factor in (1.08, 1.04, 1.02):
        exact = pnc.minimize_batch(
            reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.5 * factor]
        ).weight(0)
        errors.append((one.predicted_weight([0.5 * factor])[0] - exact).norm().item())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(slopes) > 1.8
    start = one.predicted_weight([0.52])
    warm = pnc.minimize_batch(
        reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.52], initial_weight=start
    )
    cold = pnc.minimize_batch(reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.52])
    torch.testing.assert_close(warm.weight(0), cold.weight(0), rtol=0, atol=1e-8)

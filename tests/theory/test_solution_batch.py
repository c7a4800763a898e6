import math
from itertools import pairwise

import pytest
import torch
from batches import GRID, WIDE, settings_of, statistics

import perturb_nc as pnc


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

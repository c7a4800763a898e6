import math

import numpy as np
import pytest
from fits import fast, logs, misfit_for, misfit_of, noisy_pair

import perturb_nc as pnc


@pytest.fixture(scope="module")
def noisy():
    return noisy_pair()


@fast
def test_interval_ends_where_the_misfit_has_risen_by_its_threshold(noisy):
    given = {"lambda_w": 0.1, "lambda_h": 0.0}
    fit = pnc.fit_regularization(*noisy, **given)
    x, h = math.log(fit.beta), 1e-4
    misfit = misfit_for(*noisy, given)
    slope = (misfit.residuals(np.array([x + h])) - misfit.residuals(np.array([x - h]))) / (2 * h)
    q = fit.covariance["beta"]["beta"] * (slope @ slope)
    for level, z in ((0.95, 1.959964), (0.5, 0.674490)):
        ends = fit.interval("beta", level=level)
        assert ends[0] < fit.beta < ends[1]
        for end in ends:
            risen = sum(e**2 for e in misfit_of(*noisy, beta=end, **given)) / 2 - fit.residual**2
            assert math.sqrt(risen / q) == pytest.approx(z, rel=0.02)
    for end, sign in zip(fit.interval("beta"), (-1, 1), strict=True):  # a small error: a parabola
        step = sign * 1.96 * fit.standard_error["beta"]
        assert math.log(end / fit.beta) == pytest.approx(step, rel=0.1)


@fast
def test_interval_fits_the_other_parameters_anew(noisy):
    fit = pnc.fit_regularization(*noisy)
    low, high = fit.interval("lambda_w")
    assert low < fit.lambda_w < high
    again = pnc.fit_regularization(*noisy, lambda_w=high)
    q = misfit_for(*noisy, {})
    ratio = q.rise(logs(fit), q.residuals(logs(fit)))[0]
    assert math.sqrt((again.residual**2 - fit.residual**2) / ratio) == pytest.approx(1.96, rel=0.02)
    for name, message in (("nc1", "a fitted parameter"), ("beta", "level must be between 0 and 1")):
        with pytest.raises(ValueError, match=message):
            fit.interval(name, level=1.5)

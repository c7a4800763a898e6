import math

import numpy as np
import pytest
import torch
from fits import TRUE, fast, misfit_for, misfit_of, noisy_pair, optimum, sampled

import perturb_nc as pnc


@pytest.fixture(scope="module")
def noisy():
    return noisy_pair()


@pytest.mark.parametrize("bias", [False, True])
def test_jacobian_is_central_differences(noisy, bias):
    misfit, x, h = misfit_for(*noisy, {}, bias), np.log([0.03, 0.05, 0.8]), 1e-4
    jacobian = misfit.jacobian(x)
    for i, unit in enumerate(np.eye(3)):
        expected = (misfit.residuals(x + h * unit) - misfit.residuals(x - h * unit)) / (2 * h)
        error = np.linalg.norm(jacobian[:, i] - expected)
        assert error < 1e-5 * np.linalg.norm(expected)
        assert np.linalg.norm(1.01 * jacobian[:, i] - expected) > 1e-5 * np.linalg.norm(expected)


@fast
def test_the_fit_is_the_least_residual_as_documented(noisy):
    fit = pnc.fit_regularization(*noisy)
    values = {name: getattr(fit, name) for name in TRUE}
    means, within = misfit_of(*noisy, **values)
    assert (fit.means_error, fit.within_error) == pytest.approx((means, within), rel=1e-8)
    assert fit.residual == pytest.approx(math.hypot(means, within) / math.sqrt(2), rel=1e-8)
    for name in TRUE:
        for factor in (0.97, 1.03):
            moved = misfit_of(*noisy, **{**values, name: factor * values[name]})
            assert math.hypot(*moved) / math.sqrt(2) > fit.residual * (1 + 1e-7)


@fast
def test_standard_errors_are_the_spread_of_the_linearised_fit(noisy):
    reference = noisy[0]
    population, generator = optimum(reference), torch.Generator().manual_seed(2)
    exact = misfit_for(reference, population, {})
    x = np.log(list(TRUE.values()))
    inverse = np.linalg.pinv(exact.jacobian(x))
    draws = [sampled(population, generator) for _ in range(400)]
    noise = [
        exact.scaled(s.means - population.means, s.within - population.within).numpy()
        for s in draws
    ]
    spread = np.cov(inverse @ np.array(noise).T)
    size = math.sqrt(np.mean(np.square(noise).sum(1)))
    stated = exact.covariance(x, size * np.eye(len(noise[0]))[0])
    np.testing.assert_allclose(np.sqrt(stated.diagonal() / spread.diagonal()), 1, atol=0.15)
    a, b = (m / np.sqrt(np.outer(m.diagonal(), m.diagonal())) for m in (stated, spread))
    np.testing.assert_allclose(a, b, atol=0.15)


@fast
def test_covariance_is_symmetric_and_positive(noisy):
    covariance = pnc.fit_regularization(*noisy, lambda_h=0.02).covariance
    assert list(covariance) == ["lambda_w", "beta"]
    matrix = np.array([[covariance[a][b] for b in covariance] for a in covariance])
    np.testing.assert_allclose(matrix, matrix.T, rtol=1e-10)
    assert np.linalg.eigvalsh(matrix)[0] > 0

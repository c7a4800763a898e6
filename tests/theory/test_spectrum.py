import numpy as np
import pytest
import torch
from problems import DenseProblem

import perturb_nc as pnc
from perturb_nc.theory.deep.collapse import deep_collapse_optimum


def solve(dense, **keywords):
    return pnc.minimize(dense.reduced, tol=1e-13, **keywords)


def respond(dense):
    return pnc.linear_response(solve(dense), dense.reference.mT, dense.labels)


def collapsed_response(*, num_classes, dim, n, lambda_w, lambda_h, beta):
    exact = pnc.exact_collapse(
        num_classes=num_classes, dim=dim, lambda_w=lambda_w, lambda_h=lambda_h
    )
    labels = torch.arange(num_classes).repeat_interleave(n)
    reference = exact.means[labels]
    dense = DenseProblem(reference.mT, labels, lambda_w, lambda_h, beta)
    response = respond(dense)
    torch.testing.assert_close(response.features, reference)
    units = torch.eye(reference.numel(), dtype=torch.float64).unflatten(1, reference.shape)
    return torch.stack([response.apply(unit).flatten() for unit in units])


@pytest.mark.parametrize("beta", [0.05, 1.0, 100.0])
@pytest.mark.parametrize(("lambda_w", "lambda_h"), [(2**0.5, 0.3), (0.1, 0.02)])
@pytest.mark.parametrize(("num_classes", "dim", "n"), [(3, 5, 3), (4, 4, 2), (2, 4, 1)])
def test_spectrum_at_collapse_is_the_predicted_one(num_classes, dim, n, lambda_w, lambda_h, beta):
    f = collapsed_response(
        num_classes=num_classes, dim=dim, n=n, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta
    )
    spectrum = pnc.near_collapse_spectrum(
        num_classes=num_classes,
        dim=dim,
        samples_per_class=n,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        beta=beta,
    )
    torch.testing.assert_close(f, f.mT, rtol=0, atol=1e-12)
    expected = np.sort(np.repeat(spectrum.eigenvalues, spectrum.multiplicities))
    np.testing.assert_allclose(torch.linalg.eigvalsh(f).numpy(), expected, rtol=0, atol=1e-12)
    size = dim * n
    block = torch.linalg.svdvals(f[:size, :size]).flip(0).numpy()
    expected = np.sort(np.repeat(spectrum.block_values, spectrum.block_multiplicities))
    np.testing.assert_allclose(block, expected, rtol=0, atol=1e-12)
    off_block = torch.linalg.svdvals(f[:size, size : 2 * size]).numpy()
    np.testing.assert_allclose(off_block[0], spectrum.off_block_value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(off_block[1:], 0.0, rtol=0, atol=1e-12)


def eigenvalues_at_collapse(means, weight, counts, bias=False):
    """Of F at H0 = H* with these means, which must be an optimum."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    reference = means[labels]
    dense = DenseProblem(reference.mT, labels, 0.1, 0.02, 1.0, bias)
    assert dense.reduced.at(weight).gradient_norm < 1e-12
    solution = pnc.minimize(dense.reduced, tol=1e-13)
    response = pnc.linear_response(solution, reference, labels)
    torch.testing.assert_close(response.features, reference)
    units = torch.eye(reference.numel(), dtype=torch.float64).unflatten(1, reference.shape)
    f = torch.stack([response.apply(unit).flatten() for unit in units])
    return np.sort(torch.linalg.eigvals(f).real.numpy())


def predicted_eigenvalues(n):
    spectrum = pnc.near_collapse_spectrum(
        num_classes=3, dim=5, samples_per_class=n, lambda_w=0.1, lambda_h=0.02, beta=1.0
    )
    return np.sort(np.repeat(spectrum.eigenvalues, spectrum.multiplicities))


def test_spectrum_is_not_that_of_the_model_with_bias():
    settings = {"num_classes": 3, "dim": 5, "lambda_w": 0.1, "lambda_h": 0.02}
    for bias, gap in ((False, 1e-9), (True, None)):
        exact = pnc.exact_collapse(**settings, bias=bias)
        found = eigenvalues_at_collapse(exact.means, exact.weight, (2, 2, 2), bias)
        error = np.abs(found - predicted_eigenvalues(2)).max()
        assert error < gap if gap else error > 0.01


def test_spectrum_is_not_that_of_imbalanced_classes():
    exact = deep_collapse_optimum(
        num_layers=1,
        num_classes=3,
        samples_per_class=(1, 2, 3),
        lambdas=0.1 / 3,
        lambda_h=0.02 / 6,
    )
    features, (weight,) = exact.parameters((5,))
    found = eigenvalues_at_collapse(features[[0, 1, 3]], weight, (1, 2, 3))
    assert np.abs(found - predicted_eigenvalues(2)).max() > 0.01

import math

import pytest
import torch
from dense_cross_entropy import CASES, dense_cross_entropy

import perturb_nc as pnc


def solved(seed, **case):
    dense = dense_cross_entropy(seed=seed, **case)
    return dense, pnc.minimize(dense.problem, tol=1e-13)


def implicit(dense, solution, forcing):
    """-(Hessian in all unknowns)⁻¹ forcing, split into (δW, δb, δH)."""
    features = solution.features(dense.reference, dense.labels)
    hessian = dense.hessian(dense.joined(solution.weight, solution.bias, features))
    # A free bias is free up to a constant: least norm.
    found = torch.linalg.lstsq(hessian, -forcing[:, None], driver="gelsd").solution[:, 0]
    return dense.split(found)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_response_to_the_features_against_the_dense_hessian(case):
    dense, solution = solved(1, **case)
    change = torch.randn_like(dense.reference)
    n, d, k = dense.shapes
    # ∂²f/∂h∂h0 = -β/N.
    forcing = dense.joined(
        torch.zeros(k, d, dtype=torch.float64), torch.zeros(k, dtype=torch.float64),
        -dense.beta / n * change,
    )  # fmt: skip
    weight, _, features = implicit(dense, solution, forcing)
    response = pnc.linear_response(solution, dense.reference, dense.labels)
    torch.testing.assert_close(response.weight(change), weight, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(response.apply(change), features, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ["bias", "no bias", "all of it"])
def test_remainder_is_second_order(name):
    dense, solution = solved(2, **CASES[name])
    change = torch.randn_like(dense.reference)
    response = pnc.linear_response(solution, dense.reference, dense.labels)
    before = solution.features(dense.reference, dense.labels)
    first, errors = response.apply(change), []
    for size in (1e-2, 1e-3):
        moved = dense_cross_entropy(seed=2, **CASES[name])
        moved.reference = dense.reference + size * change
        after = pnc.minimize(moved.problem, tol=1e-13).features(moved.reference, moved.labels)
        errors.append((after - before - size * first).norm().item())
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


def test_the_large_beta_form_is_the_expansion():
    errors = []
    for beta in (1e2, 1e3):
        dense, solution = solved(3, beta=beta)
        response = pnc.linear_response(solution, dense.reference, dense.labels)
        change = torch.linspace(-1, 1, dense.reference.numel()).double().view_as(dense.reference)
        gap = response.apply(change) - response.apply(change, order="large_beta")
        errors.append(gap.norm().item())
    assert math.log10(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.1)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_response_to_the_hyperparameters_against_the_dense_hessian(case):
    dense, solution = solved(4, **case)
    response = pnc.hyperparameter_response(solution)
    features = solution.features(dense.reference, dense.labels)
    flat = dense.joined(solution.weight, solution.bias, features)
    for name in ("lambda_w", "lambda_h", "beta"):
        value = getattr(dense, name)
        mixed, slopes = [], []
        for sign in (1, -1):  # f is linear in each of them: differences are exact
            setattr(dense, name, value + sign)
            at = flat.clone().requires_grad_(True)
            slopes.append(dense.value(at).item())
            mixed.append(torch.autograd.grad(dense.value(at), at)[0])
        setattr(dense, name, value)
        forcing = (mixed[0] - mixed[1]) / 2
        weight, _, moved = implicit(dense, solution, forcing)
        torch.testing.assert_close(response.weight[name], weight, rtol=1e-7, atol=1e-8)
        means = torch.stack([moved[dense.labels == k].mean(0) for k in range(4)])
        torch.testing.assert_close(response.means[name], means, rtol=1e-7, atol=1e-8)
        expected = (slopes[0] - slopes[1]) / 2
        assert response.objective[name] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["bias", "all of it"])
def test_metrics_and_covariance_move_as_differences_say(name):
    dense, solution = solved(5, **CASES[name])
    response = pnc.hyperparameter_response(solution)
    for parameter in ("lambda_w", "lambda_h", "beta"):
        value, ends = getattr(dense, parameter), []
        for sign in (1, -1):
            moved = dense_cross_entropy(seed=5, **CASES[name])
            setattr(moved, parameter, value * (1 + sign * 1e-5))
            end = pnc.minimize(moved.problem, tol=1e-13)
            ends.append((pnc.collapse_metrics(end.statistics, end.weight).as_dict(), end))
        step = 2e-5 * value
        within = (ends[0][1].statistics.within - ends[1][1].statistics.within) / step
        torch.testing.assert_close(response.within[parameter], within, rtol=1e-5, atol=1e-7)
        for metric, slope in response.metrics[parameter].items():
            difference = (ends[0][0][metric] - ends[1][0][metric]) / step
            assert slope == pytest.approx(difference, rel=1e-4, abs=1e-6, nan_ok=True), metric


def test_bad_arguments_are_named(unchecked):
    dense, solution = solved(1)
    with pytest.raises(ValueError, match="must be those the problem was built from"):
        pnc.linear_response(solution, dense.reference + 1, dense.labels)
    with pytest.raises(ValueError, match="must be those the problem was built from"):
        pnc.linear_response(solution, dense.reference, dense.labels.flip(0))
    response = pnc.linear_response(solution, dense.reference, dense.labels)
    with pytest.raises(ValueError, match="order must be 'exact' or 'large_beta', got 'small'"):
        response.apply(dense.reference, order="small")
    with pytest.raises(ValueError, match="perturbation must have one row per sample: got 3"):
        response.weight(dense.reference[:3])
    free = pnc.minimize(dense_cross_entropy(seed=1, beta=0.0).problem)
    with pytest.raises(ValueError, match="beta of the solution"):
        pnc.hyperparameter_response(free)
    rough = pnc.minimize(dense.problem, max_steps=1)
    with pytest.raises(ValueError, match="solution must have converged"):
        pnc.hyperparameter_response(rough)

import cvxpy as cp
import numpy as np
import pytest
import torch
from dense_cross_entropy import CASES, dense_cross_entropy

import perturb_nc as pnc


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_spectral_ratio_is_that_of_the_gradient_of_the_loss(case):
    dense = dense_cross_entropy(seed=1, **case)
    solution = pnc.minimize(dense.problem)
    features = solution.features(dense.reference, dense.labels)
    bias = solution.bias if dense.has_bias else torch.zeros(4, dtype=torch.float64)
    logits = (features @ solution.weight.mT + bias).requires_grad_(True)
    # The loss alone, as a function of the logits.
    identity, n = torch.eye(4, dtype=torch.float64), len(logits)
    nothing = torch.zeros_like(logits)
    plain = dense_cross_entropy(seed=1, **case)
    plain.lambda_w = plain.lambda_h = plain.beta = 0.0
    plain.reference = nothing
    loss = plain.objective(identity, torch.zeros(4, dtype=torch.float64), logits)
    gradient = torch.autograd.grad(loss, logits)[0]
    c = dense.lambda_h + dense.beta
    ratio = torch.linalg.matrix_norm(gradient, 2) ** 2 * 4 * n / (dense.lambda_w * c)
    assert solution.certificate.spectral_ratio == pytest.approx(ratio.item(), rel=1e-8)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_bound_holds_anywhere_and_is_tight_at_the_optimum(case):
    dense = dense_cross_entropy(seed=2, **case)
    problem = dense.problem
    solution = pnc.minimize(problem)
    assert solution.certificate.is_global == (case != CASES["fewer dimensions than classes"])
    if solution.certificate.is_global:
        assert solution.certificate.spectral_ratio < 1
        assert abs(solution.certificate.gap) < 1e-10 * solution.objective
    for size in (0.01, 1.0):
        away = solution.weight + size * torch.randn_like(solution.weight)
        found = pnc.certify(problem, away)
        assert found.lower_bound <= solution.objective * (1 + 1e-13)
        assert found.gap == pytest.approx(problem.objective(away) - found.lower_bound)
        assert not found.is_global


def lifted_value(dense):
    """The convex lift G = UUᵀ, U = [I; W; Hᵀ], with the loss in exponential cones."""
    n, d, k = dense.shapes
    onehot = torch.nn.functional.one_hot(dense.labels, k).double().numpy()
    reference = dense.reference.numpy()
    lift = cp.Variable((d + k + n, d + k + n), PSD=True)
    one, two, three = slice(d), slice(d, d + k), slice(d + k, d + k + n)
    bias = cp.Variable(k)
    logits = lift[three, two] + cp.outer(np.ones(n), bias)
    loss = cp.sum(cp.log_sum_exp(logits, axis=1)) - cp.sum(cp.multiply(onehot, logits))
    c = dense.lambda_h + dense.beta
    objective = (
        loss / n
        + dense.lambda_w / (2 * k) * cp.trace(lift[two, two])
        + c / (2 * n) * cp.trace(lift[three, three])
        - dense.beta / n * cp.sum(cp.multiply(lift[three, one], reference))
        + dense.beta / (2 * n) * float((reference**2).sum())
    )
    constraints = [lift[one, one] == np.eye(d)]
    if not dense.has_bias:
        constraints.append(bias == 0)
    program = cp.Problem(cp.Minimize(objective), constraints)
    program.solve(solver=cp.CLARABEL)
    return float(program.value)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("strengths", [(0.3, 0.2, 0.5), (0.02, 0.02, 0.3), (1e-3, 1e-3, 0.01)])
def test_the_lift_judges(bias, strengths):
    lambda_w, lambda_h, beta = strengths
    dense = dense_cross_entropy(
        seed=3, num_classes=3, dim=4, counts=(3, 2, 3), bias=bias,
        lambda_w=lambda_w, lambda_h=lambda_h, beta=beta,
    )  # fmt: skip
    solution = pnc.minimize(dense.problem)
    value = lifted_value(dense)
    assert value <= solution.objective + 1e-6
    assert value >= solution.certificate.lower_bound - 1e-6
    if solution.certificate.spectral_ratio <= 1:
        assert value == pytest.approx(solution.objective, abs=1e-6)


def attempts(seed, starts):
    """A problem drawn at random, solved by default and from random starts."""
    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(4, generator=generator).tolist()
    strengths = {
        "lambda_w": 10 ** (3.5 * u[0] - 4),
        "lambda_h": 10 ** (3 * u[1] - 4),
        "beta": 10 ** (3 * u[2] - 3),
    }
    dense = dense_cross_entropy(
        seed=seed, num_classes=3, dim=6, counts=(4, 4, 4), bias=u[3] > 0.5, **strengths
    )
    found = [pnc.minimize(dense.problem)]
    for _ in range(starts):
        size = 10 ** (2 * torch.rand(1, generator=generator).item() - 1)
        start = size * torch.randn(3, 6, generator=generator, dtype=torch.float64)
        found.append(pnc.minimize(dense.problem, initial_weight=start))
    return dense, found


def check_attempts(seed, starts):
    dense, found = attempts(seed, starts)
    best = min(solution.objective for solution in found)
    for solution in found:
        assert solution.status is pnc.Status.CONVERGED
        assert solution.certificate.lower_bound <= best * (1 + 1e-10)
        if solution.certificate.spectral_ratio <= 1:
            assert solution.certificate.is_global
            assert solution.objective <= best * (1 + 1e-8)
        features = solution.features(dense.reference, dense.labels)
        hessian = dense.hessian(dense.joined(solution.weight, solution.bias, features))
        roots = torch.linalg.eigvalsh(hessian)
        assert roots[0] > -1e-9 * roots[-1]


@pytest.mark.parametrize("seed", range(4))
def test_no_certified_point_is_beaten_and_no_saddle_returned(seed):
    check_attempts(seed, starts=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100, 300))
def test_no_certified_point_is_beaten_from_many_starts(seed):
    check_attempts(seed, starts=50)

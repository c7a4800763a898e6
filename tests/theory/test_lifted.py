import cvxpy as cp
import numpy as np
import pytest
from problems import CERTIFIED, OPEN, SMALL, random_problem

import perturb_nc as pnc
from perturb_nc.theory.lifted import lifted_optimum


@pytest.mark.parametrize("case", CERTIFIED.values(), ids=CERTIFIED)
def test_certified_optima_have_no_gap_and_agree_with_the_lift(case):
    problem = random_problem(seed=0, **{**SMALL, **case}).reduced
    solution = pnc.minimize(problem)
    certificate = solution.certificate
    assert certificate.spectral_ratio <= 1 + 1e-8
    assert certificate.is_global
    assert abs(certificate.gap) <= 1e-9 * solution.objective
    lifted = lifted_optimum(problem)
    assert lifted.status == "optimal"
    assert lifted.value == pytest.approx(solution.objective, abs=2e-6)


@pytest.mark.parametrize("case", OPEN.values(), ids=OPEN)
def test_elsewhere_both_are_lower_bounds(case):
    problem = random_problem(seed=0, **{**SMALL, **case}).reduced
    solution = pnc.minimize(problem)
    certificate = solution.certificate
    assert certificate.spectral_ratio > 1
    assert not certificate.is_global
    assert certificate.gap > 1e-4
    assert certificate.lower_bound == pytest.approx(solution.objective - certificate.gap)
    lifted = lifted_optimum(problem)
    # The dual bound is one feasible point of the dual of the lift.
    assert certificate.lower_bound <= lifted.value + 2e-6
    assert lifted.value <= solution.objective + 2e-6


@pytest.mark.parametrize("bias", [False, True])
def test_the_lift_on_class_statistics_is_the_lift_on_samples(bias):
    """The same program written down with all N samples, by the definition."""
    dense = random_problem(seed=1, num_classes=2, dim=3, counts=(3, 5), lambda_w=0.2, bias=bias)
    d, n, k = 3, 8, 2
    g = cp.Variable((d + k + n, d + k + n), PSD=True)
    b = cp.Variable((k, 1)) if bias else np.zeros((k, 1))
    h0, y = dense.reference.numpy(), dense.onehot.numpy()
    h = g[d + k :, :d].T
    size = cp.trace(g[d + k :, d + k :])
    value = (
        cp.sum_squares(g[d : d + k, d + k :] + b @ np.ones((1, n)) - y) / (2 * n)
        + dense.lambda_w / (2 * k) * cp.trace(g[d : d + k, d : d + k])
        + dense.lambda_h / (2 * n) * size
        + dense.beta / (2 * n) * (size - 2 * cp.sum(cp.multiply(h, h0)) + (h0**2).sum())
    )
    program = cp.Problem(cp.Minimize(value), [g[:d, :d] == np.eye(d)])
    program.solve(solver=cp.CLARABEL)
    assert lifted_optimum(dense.reduced).value == pytest.approx(program.value, abs=2e-6)


def test_too_large_for_the_lift():
    problem = random_problem(seed=0, dim=90).reduced
    with pytest.raises(ValueError, match=r"d = 90, K = 4 has order 118 > 100; project"):
        lifted_optimum(problem)

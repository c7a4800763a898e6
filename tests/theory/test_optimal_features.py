import mpmath
import pytest
import torch
from problems import CASES, random_problem, weights

import perturb_nc as pnc

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_optimal_features_against_full_matrices(case):
    dense = random_problem(seed=2, **case)
    (weight,) = weights(dense, count=1)
    features, bias = dense.best_features(weight)
    expected = pnc.ClassStatistics.from_features(features.mT, dense.labels)
    point = dense.reduced.at(weight)
    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(point.bias, bias, **close)
    torch.testing.assert_close(point.means, expected.means, **close)
    torch.testing.assert_close(point.within, expected.within, **close)
    torch.testing.assert_close(point.within_trace, expected.within.trace(), **close)
    errors = weight @ features + bias[:, None] - dense.onehot
    moment = errors @ errors.mT / len(dense.labels)
    torch.testing.assert_close(point.residual_moment, moment, **close)
    transported = point.features(dense.reference.mT, dense.labels)
    torch.testing.assert_close(transported, features.mT, **close)


@pytest.mark.parametrize("dim", [4, 12])
@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-8])
def test_within_is_exact_where_the_weight_is_large(dim, size):
    # P⁻¹ = (I - WᵀF)/c cancels there: at d = K all of Σ_W is σ(W)⁴/c² times below its terms.
    problem = random_problem(seed=1, dim=dim, lambda_w=size, lambda_h=size, beta=size).reduced
    point = problem.at(2 * torch.linalg.qr(torch.randn(dim, 4, dtype=torch.float64)).Q.mT)
    with mpmath.workdps(60):
        w, within = (mpmath.matrix(x.tolist()) for x in (point.weight, problem.statistics.within))
        inverse = (w.T * w + 2 * mpmath.mpf(size) * mpmath.eye(dim)) ** -1
        exact = mpmath.mpf(size) ** 2 * inverse * within * inverse
        expected = torch.tensor(exact.tolist(), dtype=torch.float64)
        rows = torch.tensor((w * exact).tolist(), dtype=torch.float64)
    close = {"rtol": 1e-11, "atol": 1e-14 * expected.abs().max().item()}
    torch.testing.assert_close(point.within, expected, **close)
    torch.testing.assert_close(point.within_trace, expected.trace(), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        point.weight_within, rows, rtol=1e-11, atol=1e-13 * rows.abs().max().item()
    )

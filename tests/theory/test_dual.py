import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.dual import DualTerms

SMALL = {"num_classes": 3, "dim": 5}


def dense_dual(dense, weight, shares):
    """D(R) of docs §4.2 with full matrices, R = Σ φ_i σ_i u_i v_iᵀ."""
    features, bias = dense.best_features(weight)
    n, k = len(dense.labels), dense.num_classes
    errors = weight @ features + bias[:, None] - dense.onehot
    u, values, vh = torch.linalg.svd(errors, full_matrices=False)
    order = values.argsort()  # certificates order by increasing singular value
    r = u[:, order] @ torch.diag(shares * values[order]) @ vh[order]
    c, beta, h0 = dense.lambda_h + dense.beta, dense.beta, dense.reference
    slack = dense.lambda_w / k * torch.eye(k, dtype=torch.float64) - r @ r.mT / (c * n)
    pull = r @ h0.mT
    return (
        -(r * dense.onehot).sum() / n
        - r.square().sum() / (2 * n)
        + (beta / (2 * n) - beta**2 / (2 * c * n)) * h0.square().sum()
        - 0.5 * (beta / (c * n)) ** 2 * (pull * torch.linalg.solve(slack, pull)).sum()
    )


@pytest.mark.parametrize("case", [{}, {"bias": True}, {"counts": (2, 5, 9), "offset": 2.0}])
def test_dual_function_against_full_matrices(case):
    dense = random_problem(seed=4, **{**SMALL, "lambda_w": 1.0, **case})
    solution = pnc.minimize(dense.reduced)
    point = dense.reduced.at(solution.weight)
    dual = DualTerms(point)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        shares = 0.5 * torch.rand(3, generator=generator, dtype=torch.float64)
        expected = dense_dual(dense, solution.weight, shares)
        found = dual(shares).sum() + point.anchor_cost
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_best_shares_are_best():
    dense = random_problem(seed=4, **{**SMALL, "lambda_w": 0.1})
    point = dense.reduced.at(pnc.minimize(dense.reduced).weight)
    dual, limit = DualTerms(point), point.c * point.lambda_w / 3
    best = dual.best_shares(limit)
    assert (best.square() * dual.squares < limit).all()
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    for share in grid:
        shares = share.expand(3)
        feasible = shares.square() * dual.squares < limit
        assert (dual(shares) <= dual(best) + 1e-12)[feasible].all()

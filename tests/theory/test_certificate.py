import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.certificate import DualTerms

SMALL = {"num_classes": 3, "dim": 5}
CERTIFIED = {  # stationary points with r <= 1
    "balanced": {"lambda_w": 1.2},
    "imbalanced": {"lambda_w": 0.9, "counts": (2, 5, 9)},
    "bias": {"lambda_w": 1.2, "bias": True},
    "imbalanced, bias": {"lambda_w": 1.2, "bias": True, "counts": (2, 5, 9)},
    "unconstrained": {"beta": 0.0},
    "unconstrained, bias": {"beta": 0.0, "bias": True},
    "unconstrained, imbalanced": {"beta": 0.0, "counts": (2, 5, 9)},
    "unused dimensions": {"lambda_w": 0.4, "dim": 20, "counts": (2, 2, 2)},
}
OPEN = {"weak": {"lambda_w": 0.1}, "weak, bias": {"lambda_w": 0.1, "bias": True}}


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


@pytest.mark.parametrize("change", [{"offset": 1e4}, {"scale": 1e4}])
def test_a_large_constant_in_f_proves_nothing(change):
    # βλ_H/(2cN)|H0|² is part of f and of the bound: it must not swamp the gap between them.
    dense = random_problem(seed=0, offset=change.get("offset", 0.0), **SMALL, lambda_w=0.1)
    dense.reference *= change.get("scale", 1.0)
    certificate = pnc.minimize(dense.reduced).certificate
    assert certificate.spectral_ratio > 1
    assert certificate.gap > 1e-4
    assert not certificate.is_global


def test_a_gap_of_one_in_a_million_is_no_proof():
    problem = random_problem(seed=0, lambda_w=1.2, **SMALL).reduced
    solution = pnc.minimize(problem)
    excess = problem.at(solution.weight).excess.item()
    direction = torch.randn(3, 5, dtype=torch.float64)
    step = 1e-2
    for _ in range(60):  # a weight 1e-6 above the optimum, by bisection of the step
        worse = solution.weight + step * direction
        gap = problem.at(worse).excess.item() - excess
        if gap < 1e-6 * excess:
            break
        step /= 1.3
    assert gap > 1e-8 * excess
    assert not pnc.certify(problem, worse).is_global


def test_a_one_percent_mutation_of_the_optimum_is_seen():
    problem = random_problem(seed=0, lambda_w=1.2, **SMALL).reduced
    solution = pnc.minimize(problem)
    bent = pnc.certify(problem, 1.01 * solution.weight)
    assert not bent.is_global
    assert bent.gap > 1e-7
    # The bound holds for a weight that is not stationary too.
    assert bent.lower_bound <= solution.objective + 1e-14


def test_bound_holds_at_any_weight():
    for seed in range(20):
        problem = random_problem(seed=seed, **SMALL).reduced
        best = pnc.minimize(problem).objective
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(3, 5, generator=generator)
        assert pnc.certify(problem, weight).lower_bound <= best


def test_every_stationary_point_is_global_where_decay_is_strong():
    # λ_W(λ_H + β) >= 1 with balanced classes bounds r by 1 (docs §4.2).
    for seed in range(10):
        dense = random_problem(seed=seed, lambda_w=2.0, lambda_h=0.1, beta=0.4)
        assert pnc.minimize(dense.reduced).certificate.spectral_ratio <= 1
        weight = torch.zeros(4, 12)
        assert pnc.certify(dense.reduced, weight).spectral_ratio <= 1 + 1e-12


def test_improvable_where_the_lift_is_exact():
    # d >= rank(H0) + K: the saddle at W = 0, r > 1, is not optimal and minimize() leaves it.
    dense = random_problem(seed=2, dim=20, counts=(2, 2, 2), lambda_w=0.1, beta=0.05)
    solution = pnc.minimize(dense.reduced)
    assert solution.certificate.is_global


def test_a_weight_beyond_float64_is_named():
    problem = random_problem(seed=0, **SMALL).reduced
    with pytest.raises(ValueError, match=r"weight is too large for float64"):
        pnc.certify(problem, torch.full((3, 5), 1e160, dtype=torch.float64))

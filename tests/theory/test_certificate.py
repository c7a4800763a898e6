import pytest
import torch
from problems import SMALL, random_problem

import perturb_nc as pnc


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

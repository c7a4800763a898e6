import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory import curvature
from perturb_nc.theory.curvature import lowest_curvature

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from problems import batch_point

from benchmarks import degenerate


def lowest_by_products(point):
    """Lowest eigenvalue of the Hessian relative to that at fixed H, product by product."""
    one = replace(point, weight=point.weight[0], hyperparameters=point.hyperparameters[0])
    k, d = one.weight.shape
    units = torch.eye(k * d, dtype=torch.float64).unflatten(1, (k, d))
    hessian = torch.stack([one.hessian_vector_product(u).flatten() for u in units])
    ridge = one.lambda_w / k * torch.eye(d, dtype=torch.float64)
    scale = torch.block_diag(*[one.within + one.means.mT @ (one.means / k) + ridge] * k)
    root = torch.linalg.cholesky(scale)
    half = torch.linalg.solve_triangular(root, hessian, upper=False)
    whitened = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return torch.linalg.eigvalsh(whitened)[0]


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("scale", [0.05, 1.0])
def test_lowest_curvature_against_products(monkeypatch, dense, scale):
    monkeypatch.setattr(curvature, "_DENSE", 600 if dense else 0)
    problem = random_problem(seed=1, dim=5, lambda_w=0.01, beta=0.5).reduced
    point = batch_point(problem, scale * torch.randn(4, 5, dtype=torch.float64))
    found = lowest_curvature(point)
    expected = lowest_by_products(point)
    slack = 1e-9 if dense else 0.1 * abs(expected)
    if dense:
        assert (found.lowest[0] - expected).abs() <= 1e-8 * expected.abs() + 1e-9
    assert (found.lowest[0] - expected).abs() <= slack + found.tolerance[0]
    assert expected < -1e-3 if scale == 0.05 else True
    if expected < 0:
        direction = found.direction[0]
        one = replace(point, weight=point.weight[0], hyperparameters=point.hyperparameters[0])
        assert (direction * one.hessian_vector_product(direction)).sum() < 0
        assert (direction * one.gradient).sum() <= 0


def test_a_result_says_whether_its_curvature_was_judged():
    proven = pnc.minimize(random_problem(seed=1, lambda_w=2.0, lambda_h=0.5, beta=1.0).reduced)
    assert proven.certificate.is_global
    assert math.isnan(proven.lowest_curvature)
    dense = random_problem(seed=1)
    for options in ({}, {"max_steps": 1}):
        judged = pnc.minimize(dense.reduced, **options)
        assert judged.certificate.spectral_ratio > 1
        expected = lowest_by_products(batch_point(judged.problem, judged.weight))
        assert judged.lowest_curvature == pytest.approx(expected.item(), rel=1e-3)
        assert 0 < judged.curvature_tolerance < (1e-6 if not options else math.inf)
    batch = pnc.minimize_batch(
        dense.reduced.statistics, lambda_w=[2.0, 0.05], lambda_h=[0.5, 0.02], beta=[1.0, 0.5]
    )
    assert batch.lowest_curvature[0].isnan()
    single = pnc.minimize(dense.reduced)
    assert batch.lowest_curvature[1].item() == pytest.approx(single.lowest_curvature, rel=1e-3)
    assert batch.solution(1).lowest_curvature == batch.lowest_curvature[1].item()


def test_curvature_on_a_subspace_is_that_of_all_dimensions():
    for seed in range(3):
        dense = random_problem(seed=seed, dim=70, counts=(30, 50, 40), lambda_w=1e-3)
        batch = pnc.minimize_batch(
            dense.reduced.statistics, lambda_w=[1e-3], lambda_h=[0.02], beta=[0.5]
        )
        assert batch._parts[0].space.basis is not None
        assert not batch.is_global[0]
        problem = batch.solution(0).problem
        full = lowest_curvature(batch_point(problem, batch.weight(0)))
        assert batch.lowest_curvature[0].item() == pytest.approx(full.lowest.item(), rel=0.05)


def two_sizes(excess):
    """H0 = 0, two unequal classes: g is a sum over the singular values of W, optima closed forms.

    With a = Kπ/(λ_W c) of a class and W along it of size σ: r = a(c/(σ² + c))², g' = (1 - r)σλ_W/K.
    The rarer class has r = 1 + excess at σ = 0. Returns the problem and the best sizes.
    """
    priors, c = torch.tensor([0.9, 0.1], dtype=torch.float64), 0.3
    lambda_w = 2 * priors[1].item() / (c * (1 + excess))
    features = torch.zeros(10, 4, dtype=torch.float64)
    statistics = pnc.ClassStatistics.from_features(features, [0] * 9 + [1])
    problem = pnc.NearCollapseProblem(statistics, lambda_w=lambda_w, lambda_h=0.1, beta=0.2)
    ratios = 2 * priors / (lambda_w * c)
    return problem, (c * (ratios.sqrt() - 1)).sqrt(), ratios


def with_sizes(problem, sizes):
    return batch_point(problem, torch.nn.functional.pad(torch.diag(sizes), (0, 2)))


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("norm", [1e-6, 1e-8])
def test_what_the_gradient_does_to_a_weak_direction_is_no_saddle(monkeypatch, dense, norm):
    monkeypatch.setattr(curvature, "_DENSE", 600 if dense else 0)
    problem, best, ratios = two_sizes(1e-3)
    assert with_sizes(problem, best).gradient_norm < 1e-15
    share = 1e-3 * norm / with_sizes(problem, best * torch.tensor([1, 0.999])).gradient_norm.item()
    point = with_sizes(problem, best * torch.tensor([1, 1 - share], dtype=torch.float64))
    assert point.gradient_norm.item() == pytest.approx(norm, rel=0.2)
    expected = 1 - ratios[1] * (0.3 / (point.weight[0, 1, 1] ** 2 + 0.3)) ** 2
    assert expected < -30 * norm  # |uᵀG|K/(λ_Wσ_u)
    found = lowest_curvature(point)
    if dense:
        assert found.lowest.item() == pytest.approx(expected.item(), rel=1e-3)
    assert -1e-9 < (found.lowest + found.tolerance).item() < 1e-5
    assert found.tolerance < 1e-6 - 1.1 * expected


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("excess", [0.5, 1e-2, 1e-4])
@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-8, 1e-5])
def test_a_saddle_with_a_tiny_singular_value_stays_one(monkeypatch, dense, excess, size):
    monkeypatch.setattr(curvature, "_DENSE", 600 if dense else 0)
    problem, best, _ = two_sizes(excess)
    point = with_sizes(problem, torch.stack([best[0], best.new_tensor(size)]))
    assert point.gradient_norm < 1e-5 * excess
    found = lowest_curvature(point)
    assert found.lowest.item() == pytest.approx(-excess, rel=1e-3 if dense else 0.2)
    assert found.tolerance < 1e-2 * excess + 2e-6
    optimum = problem.objective(with_sizes(problem, best).weight[0])
    start = torch.nn.functional.pad(
        torch.diag(torch.stack([best[0], best.new_tensor(size)])), (0, 2)
    )
    for tol in (1e-6, 1e-10):
        solution = pnc.minimize(problem, tol=tol, initial_weight=start)
        assert solution.objective <= optimum * (1 + 1e-10)


@pytest.mark.slow
def test_no_strict_saddle_among_degenerate_problems():
    found = degenerate.audit(100, starts=20, seed=1000)
    assert found.problems == 100
    assert found.saddles == found.unjudged == 0
    assert found.converged >= 98
    assert found.worse <= 2


def test_the_audit_sees_a_saddle():
    family = degenerate.draw((2, 3, 4), 9, 0)
    i = 8  # class means are 0: W = 0 is stationary
    assert not family.bias[i]
    weight = torch.zeros(2, 3, dtype=torch.float64)
    statistics = pnc.ClassStatistics.from_features(family.reference[i].mT, family.labels)
    problem = pnc.NearCollapseProblem(statistics, lambda_w=0.01, lambda_h=0.01, beta=0.1)
    family.settings[i] = torch.tensor([0.01, 0.01, 0.1])
    assert degenerate.relative_curvature(family, i, weight, None) < -0.1
    solution = pnc.minimize(problem)
    assert degenerate.relative_curvature(family, i, solution.weight, None) > degenerate.SADDLE

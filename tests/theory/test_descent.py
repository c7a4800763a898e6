import sys
from pathlib import Path

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc

sys.path.insert(0, str(Path(__file__).parent.parent.parent))
from benchmarks import degenerate


@pytest.mark.parametrize("start", ["stationary", "rounded"])
def test_a_start_on_a_saddle_is_left(start):
    # Two classes with one mean: by symmetry the start has equal rows, and so has every step.
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    features[3:] = features[:3]
    statistics = pnc.ClassStatistics.from_features(features, [0, 0, 0, 1, 1, 1])
    problem = pnc.NearCollapseProblem(statistics, lambda_w=0.01, lambda_h=0.01, beta=0.3)
    weight = torch.zeros(2, 3) if start == "stationary" else problem.central_path_weight()
    solution = pnc.minimize(problem, initial_weight=weight)
    assert solution.status is pnc.Status.CONVERGED
    assert (solution.weight[0] - solution.weight[1]).norm() > 0.1
    assert solution.certificate.is_global or solution.lowest_curvature >= -1e-6


def test_leaves_the_saddle_at_zero():
    # No class means in H0: W = 0 is stationary, and not optimal while c0 < 1.
    dense = random_problem(seed=5)
    means = pnc.ClassStatistics.from_features(dense.reference.mT, dense.labels).means
    dense.reference -= means.mT[:, dense.labels]
    problem = dense.reduced
    assert problem.gradient(torch.zeros(4, 12)).abs().max() < 1e-15
    solution = pnc.minimize(problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.objective < problem.objective(torch.zeros(4, 12)) - 1e-3
    start = torch.zeros(4, 12)
    assert pnc.minimize(problem, initial_weight=start).objective < problem.objective(start) - 1e-3


def test_stops_at_max_steps_and_says_so():
    dense = random_problem(seed=1, beta=0.01)
    solution = pnc.minimize(dense.reduced, max_steps=2)
    assert solution.status is pnc.Status.MAX_STEPS
    assert "raise max_steps" in solution.status.value
    assert solution.steps == 2
    again = pnc.minimize(dense.reduced, initial_weight=solution.weight)
    assert again.status is pnc.Status.CONVERGED


def test_rounding_is_reported_as_stalled():
    # An offset ten million times the spread leaves some five digits, and the result says so.
    dense = random_problem(seed=0, offset=1e7)
    solution = pnc.minimize(dense.reduced)
    assert solution.status is pnc.Status.STALLED
    assert 1e-10 < solution.gradient_norm < 1e-2
    assert "rescale the features" in solution.status.value


def test_a_weight_beyond_float64_is_named():
    dense = random_problem(seed=0)
    start = torch.full((4, 12), 1e160, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"statistics .*; rescale the features"):
        pnc.minimize(dense.reduced, initial_weight=start)


def test_statistics_beyond_float64_are_named():
    dense = random_problem(seed=0, dim=64, offset=1e9)
    with pytest.raises(ValueError, match=r"badly scaled .* subtract a common offset"):
        pnc.minimize(dense.reduced)


def test_rounding_beside_the_features_does_not_become_the_optimum():
    # Class means 0 to rounding: W grew in the coordinate that no feature has, f was .193.
    problem = degenerate.draw((3, 3, 9), 8, 4)
    statistics = pnc.ClassStatistics.from_features(problem.reference[3].mT, problem.labels)
    w, h, beta = problem.settings[3].tolist()
    solution = pnc.minimize(
        pnc.NearCollapseProblem(statistics, lambda_w=w, lambda_h=h, beta=beta, bias=True)
    )
    assert solution.objective < 0.08
    weight = solution.problem.at(solution.weight)
    assert weight.gradient_norm < 1e-9
    assert torch.linalg.svdvals(solution.weight)[1] > 1

import math
from dataclasses import replace

import pytest
import torch
from problems import batch_point

import perturb_nc as pnc
from perturb_nc.theory.unused import advised


def unused_directions():
    """H0 of rank 1 in four dimensions: the optimum needs directions that it does not have."""
    column = torch.tensor([0.1, 0.1, 0.6, -0.1], dtype=torch.float64)
    features = column[:, None] * torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    statistics = pnc.ClassStatistics.from_features(features, [0, 0, 1, 1])
    return pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.01, beta=1.0)


def test_curvature_into_unused_directions_is_one_minus_r():
    problem = unused_directions()
    weight = problem.central_path_weight()
    point, ratio = batch_point(problem, weight), pnc.certify(problem, weight).spectral_ratio
    top = point.residual_spectrum[1][0, :, -1]
    unused = torch.tensor([1.0, 0.0, -1.0], dtype=torch.float64) / math.sqrt(2)
    direction = torch.outer(top, unused)
    product = problem.hessian_vector_product(weight, direction)
    curved = (direction * product).sum().item() / (problem.lambda_w / 2)
    assert curved == pytest.approx(1 - ratio, rel=1e-9)
    assert curved != pytest.approx(1 - 1.01 * ratio, rel=1e-3)
    # ... and the step along it is the best one, where only one singular value is above the limit.
    moved, better = advised(point, lambda w: replace(point, weight=w), torch.tensor([True]))
    assert better.all()
    step = moved.weight - point.weight
    best = moved.excess.item()
    for factor in (0.98, 1.02):
        assert replace(point, weight=point.weight + factor * step).excess.item() > best


def test_no_strict_saddle_where_the_steps_stall():
    solution = pnc.minimize(unused_directions())
    assert solution.status is pnc.Status.CONVERGED
    assert solution.objective == pytest.approx(0.17906373, abs=1e-7)
    assert solution.certificate.is_global


def test_dead_units_are_used():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 10
    features = torch.randn(400, 32, generator=generator, dtype=torch.float64)
    features += 2 * torch.eye(10, 32, dtype=torch.float64)[labels]
    features[:, 16:] = 0.0
    reference = pnc.ClassStatistics.from_features(features, labels)
    settings = {"lambda_w": 1e-3, "lambda_h": 1e-3, "beta": 1.0}
    solution = pnc.minimize(pnc.NearCollapseProblem(reference, **settings))
    # The lift is exact here (d >= rank + K): what is optimal has r = 1.
    assert solution.certificate.spectral_ratio == pytest.approx(1.0, abs=1e-6)
    assert solution.certificate.gap < 1e-9
    batch = pnc.minimize_batch(reference, **{name: [value] for name, value in settings.items()})
    assert batch.objective[0].item() == pytest.approx(solution.objective, rel=1e-9)

import dataclasses

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.diagonal import DiagonalPoint
from perturb_nc.theory.reduced import ReducedPoint

CASES = {
    "plain": {},
    "bias, imbalanced, offset": {"counts": (3, 9, 5), "bias": True, "offset": 1.0},
    "fewer dimensions than classes": {"dim": 3, "num_classes": 5},
    "all variability is read": {"dim": 4, "num_classes": 4},
    "without anchor": {"beta": 0.0},
    "collapsed": {"counts": (1, 1, 1, 1)},
}
OF_ROWS = ("hessian_vector_product", "precondition", "through_moment", "through_within")
OF_POINTS = ("within_trace", "shrunk_trace", "usable", "gradient", "excess")


@pytest.fixture(params=CASES.values(), ids=CASES)
def points(request):
    """The same points, whose reference has a diagonal covariance, computed in both ways."""
    problem = random_problem(seed=1, **request.param).reduced
    s = problem.statistics
    turn = torch.linalg.eigh(s.within).eigenvectors
    spread = torch.diag((turn.mT @ s.within @ turn).diagonal().clamp(min=0.0))
    turned = pnc.ClassStatistics(s.counts, s.means @ turn, spread, s.class_variance)
    torch.manual_seed(0)
    weight = torch.randn(4, *s.means.shape, dtype=torch.float64)
    settings = torch.rand(4, 3, dtype=torch.float64) * torch.tensor([0.1, 0.1, 1.0])
    settings[:, 2] *= float(problem.beta > 0)
    return [kind(turned, weight, settings, problem.bias) for kind in (ReducedPoint, DiagonalPoint)]


@pytest.mark.parametrize("directions", [(), (3,)])
def test_products_are_those_with_the_matrices(points, directions):
    plain, diagonal = points
    rows = torch.randn(*directions, *plain.weight.shape, dtype=torch.float64)
    for name in OF_ROWS:
        expected = getattr(plain, name)(rows)
        scale = expected.abs().max().item()
        found = getattr(diagonal, name)(rows)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * scale)
        assert not scale or (1.01 * found - expected).abs().max() > 1e-3 * scale


def test_numbers_are_those_from_the_matrices(points):
    plain, diagonal = points
    for name in OF_POINTS:
        torch.testing.assert_close(
            getattr(diagonal, name), getattr(plain, name), rtol=1e-11, atol=1e-14
        )
    trace = (plain.within @ plain.solve(torch.eye(plain.weight.shape[-1]).double())).diagonal(
        dim1=-2, dim2=-1
    )
    torch.testing.assert_close(diagonal.shrunk_trace, trace.sum(-1), rtol=1e-11, atol=1e-14)


def test_the_trace_survives_variability_that_is_read_almost_alone():
    """tr Σ_W is 1e-12 of tr Σ_W0 where W reads all of it: a difference would be rounding."""
    s = random_problem(seed=0, dim=4, num_classes=4).reduced.statistics
    spread = torch.diag(torch.arange(1.0, 5.0).double())
    turned = pnc.ClassStatistics(s.counts, s.means, spread, s.class_variance)
    weight = torch.eye(4, dtype=torch.float64)[None] * 3
    settings = torch.tensor([[1e-6, 1e-6, 1e-6]], dtype=torch.float64)
    point = DiagonalPoint(turned, weight, settings, has_bias=False)
    expected = 1e-12 / (9 + 2e-6) ** 2 * spread.trace()
    torch.testing.assert_close(point.within_trace[0], expected, rtol=1e-12, atol=0)


def test_members_keep_what_is_known(points):
    for point in points:
        point.gradient_norm, point.precondition(point.weight)
        few = point.members(torch.tensor([2, 0]))
        fresh = dataclasses.replace(few)
        for name in ("gradient_norm", "lift", "residuals", "own_means"):
            torch.testing.assert_close(getattr(few, name), getattr(fresh, name))
        torch.testing.assert_close(
            few.hessian_vector_product(few.weight), fresh.hessian_vector_product(few.weight)
        )

import pytest
import torch
from problems import batch_point

import perturb_nc as pnc
from perturb_nc.theory import minimize as module
from perturb_nc.theory.compression import narrow
from perturb_nc.theory.curvature import lowest_curvature
from perturb_nc.theory.outside import judged_in_space, residual_outside, vary_enough

STRENGTHS = {"lambda_w": 3e-3, "lambda_h": 0.01, "beta": 1.0}


def wide_statistics():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 3
    features = torch.randn(600, 80, dtype=torch.float64, generator=generator) / 80**0.5
    features[:, :3] += 0.5 * torch.eye(3, dtype=torch.float64)[labels]
    return pnc.ClassStatistics.from_features(features, labels)


def solved(**strengths):
    problem = pnc.NearCollapseProblem(wide_statistics(), **STRENGTHS | strengths)
    return problem, pnc.minimize(problem)


def at_optimum(problem, solution):
    settings = problem.regularization.as_tensor(solution.weight)[None]
    space = narrow(problem.statistics, settings)
    return space, space.at(space.compressed(solution.weight[None]), settings, problem.bias)


@pytest.mark.parametrize("beta", [1.0, 10.0])
def test_what_a_space_tells_is_what_all_dimensions_tell(beta):
    problem, solution = solved(beta=beta)
    assert solution.certificate.spectral_ratio > 1.05  # not proved global
    whole = lowest_curvature(batch_point(problem, solution.weight)).lowest.item()
    found, tolerance, products = judged_in_space(problem.statistics, *at_optimum(problem, solution))
    assert products > 0
    assert 0 <= tolerance < 0.3 * found
    assert abs(found - whole) < tolerance
    assert whole > 0.5 * found


def test_the_residual_outside_is_that_of_all_dimensions():
    problem, solution = solved()
    space, point = at_optimum(problem, solution)
    full = batch_point(problem, space.lifted(point.weight)[0])
    generator = torch.Generator().manual_seed(1)
    inside = torch.randn(point.weight.shape, dtype=torch.float64, generator=generator)
    inside[..., -1] = 0.0
    value = torch.tensor([0.2], dtype=torch.float64)
    lifted = space.lifted(inside)
    stiff = full.through_moment(lifted) + full.ridge * lifted
    expected = full.hessian_vector_product(lifted) - 0.2 * stiff
    expected = expected - expected @ space.basis @ space.basis.mT
    found = residual_outside(space, point, value, inside)
    assert expected.norm() > 1e-4 * stiff.norm()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.norm().item())


def test_features_that_do_not_vary_are_for_all_dimensions():
    problem, solution = solved()
    _, point = at_optimum(problem, solution)
    assert vary_enough(problem.statistics, point, 0.0)
    # The least variance with which no curvature outside is below 0, from the closed form.
    shrunk, ridge = (point.beta / point.c) ** 2, point.ridge
    least = max(
        torch.linalg.eigvals(
            torch.linalg.solve(
                shrunk * point.c * point.gain,
                point.residual_moment / point.c - ridge * torch.eye(3, dtype=torch.float64),
            )
        ).real.max(),
        (0.1 * ridge / shrunk).max(),
    )
    lowest = torch.linalg.eigvalsh(problem.statistics.within)[0]
    for share, enough in ((0.99, True), (1.01, False)):
        moved = problem.statistics.within + (least / share - lowest) * torch.eye(80).double()
        s = problem.statistics
        own = pnc.ClassStatistics(s.counts, s.means, moved, s.class_variance)
        assert vary_enough(own, point, 0.0) == enough


def test_a_space_says_nothing_of_a_saddle():
    problem = pnc.NearCollapseProblem(wide_statistics(), **STRENGTHS)
    settings = problem.regularization.as_tensor(problem.statistics.means)[None]
    space = narrow(problem.statistics, settings)
    point = space.at(torch.zeros_like(space.statistics.means)[None], settings, bias=False)
    assert lowest_curvature(point).lowest.item() < -0.1
    assert judged_in_space(problem.statistics, space, point) is None


def test_the_optimum_is_that_of_all_dimensions(monkeypatch):
    problem, solution = solved()
    monkeypatch.setattr(module, "judged_in_space", lambda *_: None)
    whole = pnc.minimize(problem)
    assert solution.products != whole.products
    assert solution.objective == pytest.approx(whole.objective, rel=1e-13)
    torch.testing.assert_close(solution.weight, whole.weight, rtol=0, atol=1e-8)
    assert solution.lowest_curvature == pytest.approx(whole.lowest_curvature, rel=0.3)

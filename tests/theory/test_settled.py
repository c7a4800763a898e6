"""The cheap Hessian near a stationary point, and the Newton directions it gives."""

import pytest
import torch
from problems import batch_point, random_problem

import perturb_nc as pnc
from perturb_nc.theory import curvature
from perturb_nc.theory import settled as module
from perturb_nc.theory.curvature import lowest_curvature
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.settled import Settled, newton_direction

SHAPES = [{}, {"dim": 9, "counts": (8, 4, 6, 5)}, {"dim": 3, "counts": (6, 3, 4, 5, 4)}]


def optimum(bias=False, tol=1e-10, **shape):
    dense = random_problem(seed=2, lambda_w=0.01, beta=0.3, bias=bias, **shape)
    return pnc.minimize(dense.reduced, tol=tol)


def at(solution):
    return batch_point(solution.problem, solution.weight)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_at_an_optimum_are_the_exact_ones(shape, bias):
    point = at(optimum(bias, **shape))
    settled = Settled.of(point, 0.0)
    v = torch.randn(point.weight.shape, dtype=torch.float64)
    expected, fixed = point.hessian_vector_product(v), point.precondition(v)
    found = settled.outward(settled.hessian_vector_product(settled.inward(v)))
    assert (found - expected).norm() < 1e-8 * expected.norm()
    torch.testing.assert_close(settled.outward(settled.precondition(settled.inward(v))), fixed)
    bent = Settled.of(point, 0.01 / point.gradient_norm.item())
    held = bent.outward(bent.hessian_vector_product(settled.inward(v))) - found
    stiff = 0.01 * v @ (point.moment + point.ridge * torch.eye(v.shape[-1], dtype=torch.float64))
    torch.testing.assert_close(held, stiff, rtol=1e-6, atol=1e-9)


def test_what_products_leave_out_is_of_the_size_of_the_gradient():
    ends = []
    for size in (1e-3, 1e-5):
        point = at(optimum())
        generator = torch.Generator().manual_seed(0)
        v = torch.randn(point.weight.shape, dtype=torch.float64, generator=generator)
        point = batch_point(optimum().problem, (point.weight + size * v)[0])
        settled = Settled.of(point, 0.0)
        off = settled.outward(settled.hessian_vector_product(settled.inward(v)))
        off = off - point.hessian_vector_product(v)
        ends.append((off.norm() / point.gradient.norm()).item())
    assert ends[0] == pytest.approx(ends[1], rel=0.1)


def test_directions_and_optima_are_those_of_exact_products(monkeypatch):
    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(module, "_PLAIN", 2)
    rough = optimum(tol=1e-5)
    point = at(rough)
    assert 1e-10 < point.gradient_norm.item() < 1e-4
    own = newton_direction(point, torch.full_like(point.gradient_norm, 1e-8))
    exact = solve_hessian(point, -point.gradient, 1e-8)
    assert own.products > 3
    assert (own.solution - exact.solution).norm() < 0.05 * exact.solution.norm()
    found = pnc.minimize(rough.problem)
    monkeypatch.undo()
    plain = pnc.minimize(rough.problem)
    assert found.status is pnc.Status.CONVERGED
    assert found.objective == pytest.approx(plain.objective, rel=1e-12)
    assert found.steps <= plain.steps + 2


def test_the_curvature_judged_with_cheap_products_is_the_exact_one(monkeypatch):
    solution = optimum(dim=6, counts=(8, 4, 6, 5))
    exact = lowest_curvature(at(solution))
    monkeypatch.setattr(module, "_LARGE", 1)
    monkeypatch.setattr(curvature, "_DENSE", 1)
    found = lowest_curvature(at(solution))
    assert found.products > 0
    assert found.lowest.item() == pytest.approx(exact.lowest.item(), rel=0.15)
    assert module.pays(at(solution), 1e-8)
    assert not module.pays(batch_point(solution.problem, 1.1 * solution.weight), 1e-8)

import pytest
import torch
from dense_cross_entropy import dense_cross_entropy

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy import direction, elimination
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.settled import newton_direction

CASES = (
    {},
    {"bias": False},
    {"bias_decay": True, "label_smoothing": 0.2, "class_weights": (1.0, 2.5, 0.5, 1.5)},
)


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(direction, "_MANY", 0)


def point_of(case):
    problem = dense_cross_entropy(seed=5, beta=1.0, lambda_h=0.2, **case).problem
    found = pnc.minimize(problem)
    return problem.at(found.weight + 0.02 * torch.randn(4, 8, dtype=torch.float64), found.bias)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_are_those_in_float64_to_five_digits(case, kept, monkeypatch):
    if not kept:
        monkeypatch.setattr(elimination, "MEMORY_BUDGET", 0)
    point = point_of(case)
    single = direction.SingleProducts(point)
    rows = torch.randn_like(point.weight)
    for name in ("hessian_vector_product", "precondition"):
        found, exact = (getattr(own, name)(rows) for own in (single, point))
        assert found.dtype == torch.float64
        assert 1e-12 < (found - exact).norm() < 3e-5 * exact.norm()
    assert single.weight is point.weight


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_direction_is_newtons_to_the_digits_asked_for(case, monkeypatch):
    point = point_of(case)
    exact = solve_hessian(point, -point.gradient, 1e-13).solution
    tight = torch.tensor([1e-4], dtype=torch.float64)
    found = newton_direction(point, tight)
    assert 1e-9 < (found.solution - exact).norm() < 1e-3 * exact.norm()
    # More digits, and what float32 cannot solve for, come from products in float64.
    digits = newton_direction(point, torch.tensor([1e-9], dtype=torch.float64))
    assert (digits.solution - exact).norm() < 1e-7 * exact.norm()
    monkeypatch.setattr(direction, "_MOST", 1)
    again = newton_direction(point, tight)
    assert again.products > solve_hessian(point, -point.gradient, tight).products
    torch.testing.assert_close(again.solution, found.solution, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_optimum_is_the_same_to_all_digits(case, monkeypatch):
    problem = dense_cross_entropy(seed=6, **case).problem
    expected = pnc.minimize(problem, tol=1e-11)
    monkeypatch.setattr(direction, "_MANY", 0)
    found = pnc.minimize(problem, tol=1e-11)
    assert found.gradient_norm <= 1e-11
    assert found.steps <= expected.steps + 1
    torch.testing.assert_close(found.weight, expected.weight, rtol=0, atol=1e-8)
    assert found.objective == pytest.approx(expected.objective, rel=1e-14)


@pytest.mark.usefixtures("always")
def test_where_float32_overflows_the_direction_comes_from_float64():
    case = {"lambda_w": 1e-9, "lambda_h": 1e-9, "beta": 1e-3, "offset": 30.0}
    problem = dense_cross_entropy(seed=7, bias=False, **case).problem
    point = problem.at(torch.randn(4, 8, dtype=torch.float64))
    relative = torch.tensor([1e-2], dtype=torch.float64)
    found = newton_direction(point, relative)
    exact = solve_hessian(point, -point.gradient, relative)
    torch.testing.assert_close(found.solution.isfinite(), exact.solution.isfinite())
    assert (found.solution * point.gradient).sum() < 0

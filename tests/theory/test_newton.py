import torch
from problems import batch_point, random_problem

from perturb_nc.theory.clock import Clock
from perturb_nc.theory.newton import solve_hessian


def point_of(scale=0.3, **case):
    problem = random_problem(seed=1, dim=5, **case).reduced
    return batch_point(problem, scale * torch.randn(4, 5, dtype=torch.float64))


def hessian(point):
    units = torch.eye(20, dtype=torch.float64).view(20, 1, 4, 5)
    return torch.stack([point.hessian_vector_product(unit).flatten() for unit in units])


def test_a_convex_solve_is_that_of_the_dense_hessian():
    point = point_of(lambda_w=2.0, lambda_h=0.5)  # decay makes ∇²g definite
    dense = hessian(point)
    assert torch.linalg.eigvalsh(dense)[0] > 0
    found = solve_hessian(point, -point.gradient, 1e-13)
    expected = torch.linalg.solve(dense, -point.gradient.flatten())
    torch.testing.assert_close(found.solution.flatten(), expected, rtol=1e-9, atol=1e-11)
    assert not found.bent.any()
    assert not found.negative.any()


def test_several_right_hand_sides_are_solved_at_once():
    point = point_of(lambda_w=2.0, lambda_h=0.5)
    right = torch.randn(3, 1, 4, 5, dtype=torch.float64)
    together = solve_hessian(point, right, 1e-13)
    for i in range(3):
        alone = solve_hessian(point, right[i], 1e-13)
        torch.testing.assert_close(together.solution[i], alone.solution, rtol=1e-9, atol=1e-11)


def test_negative_curvature_ends_a_solve_and_is_shown():
    point = point_of(scale=0.05, lambda_w=0.01, beta=0.5)
    assert torch.linalg.eigvalsh(hessian(point))[0] < 0
    found = solve_hessian(point, -point.gradient, 1e-13)
    assert found.bent.all()
    bent = found.negative
    assert (bent * point.hessian_vector_product(bent)).sum() < 0
    assert (found.solution * point.gradient).sum() < 0  # a descent direction all the same


def test_no_product_is_taken_once_the_clock_has_run_out():
    point = point_of()
    found = solve_hessian(point, -point.gradient, 1e-13, Clock(limit=0.0))
    assert found.products.tolist() == [0]
    assert not found.solution.any()

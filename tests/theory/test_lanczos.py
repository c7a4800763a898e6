import torch
from problems import batch_point, random_problem

from perturb_nc.theory.curvature import lowest_curvature
from perturb_nc.theory.lanczos import lanczos


def test_the_lowest_curvature_by_products_alone_is_that_of_the_dense_hessian():
    problem = random_problem(seed=1, dim=5, lambda_w=0.01, beta=0.5).reduced
    point = batch_point(problem, 0.05 * torch.randn(4, 5, dtype=torch.float64))
    dense = lowest_curvature(point).lowest
    top = point.residual_spectrum[1][..., -1:]
    value, residual, direction, products = lanczos(point, top)
    assert dense < -1e-3
    assert dense - 1e-9 <= value <= 0.9 * dense  # a Ritz value is never below the lowest
    assert (value - dense).abs() <= residual + 1e-9
    product = point.hessian_vector_product(direction)
    assert (direction * product).sum() < 0
    assert 1 <= products.item() <= 20

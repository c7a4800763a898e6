import dataclasses

import pytest
import torch
from problems import CASES, random_problem, weights

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_objective_gradient_and_hessian_against_full_matrices(case):
    dense = random_problem(seed=1, **case)
    weight, direction = weights(dense, count=2)
    variable = weight.clone().requires_grad_()
    objective = dense.reduced_objective(variable)
    (gradient,) = torch.autograd.grad(objective, variable, create_graph=True)
    (product,) = torch.autograd.grad((gradient * direction).sum(), variable)
    reduced = dense.reduced
    assert reduced.objective(weight) == pytest.approx(objective.item(), rel=1e-12)
    torch.testing.assert_close(reduced.gradient(weight), gradient.detach(), rtol=1e-12, atol=1e-12)
    found = reduced.hessian_vector_product(weight, direction)
    torch.testing.assert_close(found, product, rtol=1e-11, atol=1e-12)


def test_a_one_percent_mutation_is_seen():
    dense = random_problem(seed=1)
    (weight,) = weights(dense, count=1)
    exact = dense.reduced_objective(weight).item()
    for name in ("lambda_w", "lambda_h", "beta"):
        bent = dataclasses.replace(dense.reduced, **{name: 1.01 * getattr(dense, name)})
        assert abs(bent.objective(weight) / exact - 1) > 1e-6


def test_rotations_permutations_and_relabelling_leave_the_objective():
    dense = random_problem(seed=5, counts=(2, 9, 5, 7), bias=True)
    (weight,) = weights(dense, count=1)
    q = torch.linalg.qr(torch.randn(12, 12, dtype=torch.float64)).Q
    order, relabel = torch.randperm(23), torch.tensor([2, 3, 1, 0])
    moved = dataclasses.replace(
        dense, reference=q @ dense.reference[:, order], labels=relabel[dense.labels[order]]
    )
    rotated = weight[relabel.argsort()] @ q.mT
    expected = dense.reduced.objective(weight)
    assert moved.reduced.objective(rotated) == pytest.approx(expected, rel=1e-13)

import dataclasses

import mpmath
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc

CASES = {
    "balanced": {},
    "bias": {"bias": True},
    "imbalanced": {"counts": (2, 9, 5, 7)},
    "imbalanced, bias, offset": {"counts": (2, 9, 5, 7), "bias": True, "offset": 3.0},
    "unconstrained": {"beta": 0.0},
    "unconstrained, bias": {"beta": 0.0, "bias": True},
    "no feature decay": {"lambda_h": 0.0},
    "fewer dimensions than classes": {"dim": 3},
    "large": {"dim": 30, "num_classes": 8, "beta": 20.0},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def weights(problem, *, count):
    shape = (problem.num_classes, len(problem.reference))
    return [torch.randn(shape, dtype=torch.float64) for _ in range(count)]


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


@cases
def test_optimal_features_against_full_matrices(case):
    dense = random_problem(seed=2, **case)
    (weight,) = weights(dense, count=1)
    features, bias = dense.best_features(weight)
    expected = pnc.ClassStatistics.from_features(features.mT, dense.labels)
    point = dense.reduced.at(weight)
    close = {"rtol": 1e-11, "atol": 1e-12}
    torch.testing.assert_close(point.bias, bias, **close)
    torch.testing.assert_close(point.means, expected.means, **close)
    torch.testing.assert_close(point.within, expected.within, **close)
    torch.testing.assert_close(point.within_trace, expected.within.trace(), **close)
    errors = weight @ features + bias[:, None] - dense.onehot
    moment = errors @ errors.mT / len(dense.labels)
    torch.testing.assert_close(point.residual_moment, moment, **close)
    transported = point.features(dense.reference.mT, dense.labels)
    torch.testing.assert_close(transported, features.mT, **close)


@cases
def test_central_path_weight_is_the_best_one(case):
    dense = random_problem(seed=3, **case)
    expected = dense.best_weight(dense.reference)
    found = dense.reduced.central_path_weight()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    other = random_problem(seed=4, **case)
    statistics = other.reduced.statistics
    found = dense.reduced.central_path_weight(statistics)
    torch.testing.assert_close(found, other.best_weight(other.reference), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dim", [4, 12])
@pytest.mark.parametrize("size", [1e-4, 1e-6, 1e-8])
def test_within_is_exact_where_the_weight_is_large(dim, size):
    # P⁻¹ = (I - WᵀF)/c cancels there: at d = K all of Σ_W is σ(W)⁴/c² times below its terms.
    problem = random_problem(seed=1, dim=dim, lambda_w=size, lambda_h=size, beta=size).reduced
    point = problem.at(2 * torch.linalg.qr(torch.randn(dim, 4, dtype=torch.float64)).Q.mT)
    with mpmath.workdps(60):
        w, within = (mpmath.matrix(x.tolist()) for x in (point.weight, problem.statistics.within))
        inverse = (w.T * w + 2 * mpmath.mpf(size) * mpmath.eye(dim)) ** -1
        exact = mpmath.mpf(size) ** 2 * inverse * within * inverse
        expected = torch.tensor(exact.tolist(), dtype=torch.float64)
        rows = torch.tensor((w * exact).tolist(), dtype=torch.float64)
    close = {"rtol": 1e-11, "atol": 1e-14 * expected.abs().max().item()}
    torch.testing.assert_close(point.within, expected, **close)
    torch.testing.assert_close(point.within_trace, expected.trace(), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        point.weight_within, rows, rtol=1e-11, atol=1e-13 * rows.abs().max().item()
    )


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda_w": 0.0}, "lambda_w must be > 0, got 0.0"),
        ({"lambda_w": float("nan")}, "lambda_w must be finite, got nan"),
        ({"lambda_h": -1e-3}, "lambda_h must be >= 0, got -0.001"),
        ({"beta": -1.0}, "beta must be >= 0, got -1.0"),
        ({"beta": "strong"}, "beta must be a number, got 'strong'"),
        ({"beta": 0, "lambda_h": 0}, "lambda_h and beta must not both be 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_hyperparameters_are_named(change, message):
    statistics = random_problem(seed=0).reduced.statistics
    arguments = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        pnc.NearCollapseProblem(statistics, **arguments)


def test_bad_weights_are_named():
    problem = random_problem(seed=0).reduced
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 12\), got \(4, 3\)"):
        problem.objective(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="direction must be real and finite"):
        problem.hessian_vector_product(torch.zeros(4, 12), torch.full((4, 12), torch.nan))

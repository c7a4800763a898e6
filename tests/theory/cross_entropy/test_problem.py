import pytest
import torch
from dense_cross_entropy import CASES, dense_cross_entropy

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem


def weight_for(dense, size=1.0):
    generator = torch.Generator().manual_seed(7)
    _, d, k = dense.shapes
    return size * torch.randn(k, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_objective_gradient_and_hessian_against_all_unknowns_at_once(case):
    dense = dense_cross_entropy(seed=1, **case)
    problem, weight = dense.problem, weight_for(dense, 0.7)
    bias, features = dense.best_features(weight)
    flat = dense.joined(weight, bias, features)
    value = dense.value(flat).item()
    assert problem.objective(weight) == pytest.approx(value, rel=1e-12)
    # H and b are at their optimum, so that the gradient is the partial one.
    flat.requires_grad_(True)
    partial = torch.autograd.grad(dense.value(flat), flat)[0]
    size = weight.numel()
    assert partial[size:].abs().max() < 1e-10 * partial[:size].abs().max()
    expected = partial[:size].view_as(weight)
    close = {"rtol": 0, "atol": 1e-10 * expected.abs().max().item()}
    torch.testing.assert_close(problem.gradient(weight), expected, **close)
    direction = weight_for(dense).flip(0)
    expected = (dense.reduced_hessian(flat.detach()) @ direction.flatten()).view_as(weight)
    close = {"rtol": 0, "atol": 1e-9 * expected.abs().max().item()}
    torch.testing.assert_close(problem.hessian_vector_product(weight, direction), expected, **close)


def test_with_free_bias_an_offset_costs_nothing():
    plain, moved = (dense_cross_entropy(seed=5, lambda_h=0.0, offset=o) for o in (0.0, 1e6))
    weight = weight_for(plain)
    torch.testing.assert_close(
        moved.problem.gradient(weight), plain.problem.gradient(weight), rtol=0, atol=1e-8
    )


def test_bad_arguments_are_named():
    x, y, strengths = torch.randn(6, 3), [0, 1, 2, 0, 1, 2], {"lambda_w": 1, "lambda_h": 1}

    def build(features=x, labels=y, beta=1.0, **options):
        return CrossEntropyProblem(features, labels, beta=beta, **{**strengths, **options})

    with pytest.raises(ValueError, match=r"lambda_w must be > 0, got 0\.0"):
        build(lambda_w=0)
    with pytest.raises(ValueError, match="lambda_h and beta must not both be 0"):
        build(lambda_h=0, beta=0)
    with pytest.raises(ValueError, match=r"label_smoothing must be < 1, got 1\.0"):
        build(label_smoothing=1.0)
    with pytest.raises(ValueError, match=r"label_smoothing must be >= 0, got -0\.1"):
        build(label_smoothing=-0.1)
    with pytest.raises(ValueError, match="bias_decay is for a model with a bias"):
        build(bias=False, bias_decay=True)
    with pytest.raises(ValueError, match="class_weights must have one weight a class, 3, got 2"):
        build(class_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"class_weights\[1\] must be > 0, got 0\.0"):
        build(class_weights=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="labels must have one entry per sample: got 5 for 6"):
        build(labels=y[:5])
    with pytest.raises(ValueError, match=r"classes \[1\] of 3 have none"):
        build(labels=[0, 0, 2, 0, 0, 2])
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 3\)"):
        build().objective(torch.zeros(2, 3))
    assert isinstance(build().statistics, pnc.ClassStatistics)

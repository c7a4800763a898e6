import pytest
import torch
from dense_cross_entropy import CASES, dense_cross_entropy

from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem


def weight_for(dense, size=1.0):
    generator = torch.Generator().manual_seed(7)
    _, d, k = dense.shapes
    return size * torch.randn(k, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_logits_close_on_themselves(case):
    # c z = βWh0 + cb + WWᵀω(t - p(z)), to rounding.
    dense = dense_cross_entropy(seed=2, **case)
    problem, weight = dense.problem, weight_for(dense, 3.0)
    bias = torch.randn(len(weight), dtype=torch.float64)
    point = problem.at(weight, bias if dense.has_bias else None)
    c = dense.lambda_h + dense.beta
    targets = problem.targets(problem.labels)
    z = point.state.logits
    right = dense.beta * dense.reference @ weight.mT + c * bias * dense.has_bias
    right = right + targets.weights * (targets.rows - z.softmax(1)) @ (weight @ weight.mT)
    assert (c * z - right).abs().max() < 1e-12 * max(1.0, right.abs().max())


@pytest.mark.parametrize("size", [0.1, 10.0, 1e3])
def test_products_without_matrices_are_the_same(size, monkeypatch):
    # Beyond 64 classes, or the memory budget, no matrix of a sample is formed.
    from perturb_nc.theory.cross_entropy import elimination

    dense = dense_cross_entropy(seed=3, beta=0.05)
    weight = weight_for(dense, size)
    direction = torch.randn(1, 4, 9, dtype=torch.float64)
    bias = torch.randn(4, dtype=torch.float64)
    explicit = dense.problem.at(weight, bias)
    assert explicit.state.curvatures is not None
    monkeypatch.setattr(elimination, "_MOST_CLASSES", 3)
    free = dense.problem.at(weight, bias)
    assert free.state.curvatures is None
    scale = explicit.state.logits.abs().max().item()
    torch.testing.assert_close(free.state.logits, explicit.state.logits, rtol=0, atol=1e-11 * scale)
    expected = explicit.hessian_vector_product(direction)
    close = {"rtol": 0, "atol": 1e-10 * expected.abs().max().item()}
    torch.testing.assert_close(free.hessian_vector_product(direction), expected, **close)


def test_chunks_change_nothing(monkeypatch):
    from perturb_nc.theory.cross_entropy import elimination

    dense = dense_cross_entropy(seed=4)
    weight, bias = weight_for(dense), torch.zeros(4, dtype=torch.float64)
    whole = dense.problem.at(weight, bias)
    assert whole.state.steps > 0
    monkeypatch.setattr(elimination, "_CHUNK_BYTES", 8 * 6 * 16 * 5)
    parts = dense.problem.at(weight, bias)
    torch.testing.assert_close(parts.gradient, whole.gradient, rtol=1e-13, atol=1e-15)


def test_extreme_weights_and_starts_converge():
    # Saturated samples on the wrong side, where Newton's full step overshoots.
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5, dtype=torch.float64) * 10
    problem = CrossEntropyProblem(features, labels, lambda_w=1e-3, lambda_h=1e-4, beta=1e-3)
    for size in (1e-3, 1.0, 30.0, 1e3):
        weight = size * torch.randn(3, 5, dtype=torch.float64)
        point = problem.at(weight, torch.zeros(3, dtype=torch.float64))
        state, anchors = point.state, point._anchors
        gram = state.factor @ state.factor.mT
        right = anchors - state.residuals @ gram
        assert (state.logits - right).abs().max() < 1e-12 * (right.abs().max() + gram.abs().max())
        assert state.steps < 100

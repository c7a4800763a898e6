"""The machinery for any convex loss: with ψ = ½|z|² (S = I) it is the squared-loss model."""

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.elimination import Targets
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint, Samples, descend_convex


class HalfSquare:
    """ψ = ½|z|², for the squared loss less ½|t|²."""

    only_differences = False

    def potential(self, logits):
        return 0.5 * logits.square().sum(1)

    def outputs(self, logits):
        return logits

    def curve(self, outputs, directions):
        return directions

    def curvature(self, outputs):
        k = outputs.shape[1]
        return torch.eye(k, dtype=outputs.dtype).expand(len(outputs), k, k).clone()

    def conjugate(self, outputs):
        return 0.5 * outputs.square().sum(1)


def squared(dense):
    """Samples of problem (1) with its own loss; with a bias in the last column."""
    x, c = dense.reference.mT, dense.lambda_h + dense.beta
    if dense.bias:
        x = x - x.mean(0)
    penalties = x.new_full((x.shape[1] + dense.bias,), dense.lambda_w / dense.num_classes)
    if dense.bias:
        penalties[-1] = 0.0
    targets = Targets(HalfSquare(), dense.onehot.mT, x.new_ones(len(x), 1))
    return Samples(x, targets, dense.beta / c, 1 / c, penalties, x.mT @ x / len(x))


@pytest.mark.parametrize("explicit", [True, False])
def test_with_unit_curvature_it_is_the_squared_loss(explicit, monkeypatch):
    from perturb_nc.theory.cross_entropy import elimination

    if not explicit:
        monkeypatch.setattr(elimination, "_MOST_CLASSES", 2)
    dense = random_problem(seed=1, counts=(2, 9, 5, 7))
    weight, direction = torch.randn(2, 1, 4, 12, dtype=torch.float64)
    mine, reduced = CrossEntropyPoint(squared(dense), weight), dense.reduced.at(weight[0])
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(mine.excess[0] + 0.5, reduced.excess, **close)
    torch.testing.assert_close(mine.gradient[0], reduced.gradient, **close)
    torch.testing.assert_close(mine.gradient_norm[0], reduced.gradient_norm, **close)
    torch.testing.assert_close(mine.residual_moment[0], reduced.residual_moment, **close)
    product = mine.hessian_vector_product(direction)[0]
    torch.testing.assert_close(product, reduced.hessian_vector_product(direction[0]), **close)
    for transposed in (False, True):
        overlap = mine.anchor_overlap(direction, transposed=transposed)[0]
        wanted = reduced.anchor_overlap(direction[0], transposed=transposed)
        torch.testing.assert_close(overlap, wanted, **close)


def test_with_unit_curvature_and_bias_too():
    dense = random_problem(seed=2, counts=(2, 9, 5, 7), bias=True, offset=2.0)
    samples = squared(dense)
    weight = torch.randn(1, 4, 12, dtype=torch.float64)
    column = torch.zeros(13, dtype=torch.float64)
    column[-1] = 1.0
    start = torch.nn.functional.pad(weight, (0, 1))
    point = descend_convex(CrossEntropyPoint(samples, start, movable=column))
    reduced = dense.reduced.at(weight[0])
    close = {"rtol": 1e-10, "atol": 1e-12}
    free = CrossEntropyPoint(samples, point.weight)
    torch.testing.assert_close(free.gradient[0, :, :-1], reduced.gradient, **close)
    torch.testing.assert_close(free.excess[0] + 0.5, reduced.excess, **close)


def test_features_held_fixed_leave_ridge_multinomial_regression():
    from sklearn.linear_model import LogisticRegression

    x, y = torch.randn(90, 5, dtype=torch.float64), torch.arange(90) % 3
    problem = pnc.theory.cross_entropy.problem.CrossEntropyProblem(
        x, y, lambda_w=0.3, lambda_h=1.0, beta=1.0
    )
    s = problem.samples
    held = Samples(s.features, s.targets, 1.0, 0.0, s.penalties, s.moment)
    point = descend_convex(CrossEntropyPoint(held, torch.zeros(1, 3, 6, dtype=torch.float64)))
    assert point.gradient_norm < 1e-13
    # sklearn: Σ CE + |W|²/(2C), so that C = K/(λ_W N).
    judge = LogisticRegression(C=3 / (0.3 * 90), tol=1e-12, max_iter=1000).fit(x, y)
    torch.testing.assert_close(
        point.last_layer, torch.from_numpy(judge.coef_), rtol=1e-5, atol=1e-6
    )

import pytest
import torch
from deep_models import optima, two_classes

import perturb_nc as pnc


def test_gradient_descent_nears_the_optimum_of_two_classes():
    depths = [2, 3, 4]
    model = two_classes(depths, range(3))
    training = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=4000)
    assert (training.objective - optima(depths)).abs().max() < 5e-5


@pytest.mark.slow
def test_gradient_descent_reaches_the_optimum_of_two_classes():
    depths = [2] * 10 + [3] * 10 + [4] * 10
    model = two_classes(depths, [*range(10)] * 3)
    training = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=30_000)
    reached = (training.objective - optima(depths)).abs() < 1e-6
    assert reached.view(3, 10).sum(1).min() >= 9
    assert max(layer.dnc1 for run in range(30) for layer in model.collapse(run)) < 1e-12


@pytest.mark.slow
def test_gradient_descent_reaches_the_linear_optimum_of_four_classes():
    found = pnc.deep.deep_collapse_optimum(
        num_layers=3, num_classes=4, samples_per_class=100, lambdas=2e-3, lambda_h=2e-3
    )
    labels = torch.arange(4).repeat_interleave(100)
    model = pnc.deep.DeepUFM(
        labels, [16] * 3, lambdas=2e-3, lambda_h=2e-3, relu=False, seeds=range(10),
        feature_scale=0.25,
    )  # fmt: skip
    training = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=20_000, tol=1e-9)
    assert ((training.objective - found.objective).abs() < 1e-6).sum() >= 9


def test_bad_options_of_the_optimisers_are_named():
    model = two_classes([2], [0])
    with pytest.raises(ValueError, match="learning_rate must be > 0"):
        pnc.deep.gradient_descent(model, learning_rate=0.0, max_steps=1)
    with pytest.raises(ValueError, match="memory must be >= 1"):
        pnc.deep.lbfgs(model, memory=0)

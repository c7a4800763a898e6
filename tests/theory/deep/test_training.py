import math

import pytest
import torch
from deep_models import optima, two_classes

import perturb_nc as pnc
from perturb_nc.theory.status import Status


def test_lbfgs_reaches_the_optimum_of_two_classes():
    depths = [2, 3, 4] * 2
    model = two_classes(depths, range(6))
    training = pnc.deep.lbfgs(model, max_steps=1000, tol=1e-7)
    assert (training.objective - optima(depths)).abs().max() < 1e-8
    assert (training.objective - 0.999999 * optima(depths)).min() > 1e-8  # a bend is seen
    for run in range(6):
        layers = model.collapse(run)
        assert max(layer.dnc1 for layer in layers) < 1e-8
        # Nothing is promised for H_1 itself.
        assert max(layer.dnc2 for layer in layers[1:]) < 1.01
        assert [layer.rank for layer in layers] == [2] * depths[run]


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
        depth=3, num_classes=4, samples_per_class=100, lambdas=2e-3, lambda_h=2e-3
    )
    labels = torch.arange(4).repeat_interleave(100)
    model = pnc.deep.DeepUFM(
        labels, [16] * 3, lambdas=2e-3, lambda_h=2e-3, relu=False, seeds=range(10),
        feature_scale=0.25,
    )  # fmt: skip
    training = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=20_000, tol=1e-9)
    assert ((training.objective - found.objective).abs() < 1e-6).sum() >= 9


def test_only_zero_is_optimal_beyond_the_threshold():
    # λ = 0.0762 is the threshold, and up to 0.108 collapse is a local minimum still.
    decays = torch.tensor([0.07, 0.09, 0.12], dtype=torch.float64).repeat_interleave(4)
    model = two_classes([3] * 12, range(12), lambdas=decays[:, None], lambda_h=decays)
    training = pnc.deep.lbfgs(model, max_steps=300, tol=1e-7)
    below, above, far = training.objective.view(3, 4)
    found = [
        pnc.deep.deep_collapse_optimum(
            depth=3, num_classes=2, samples_per_class=10, lambdas=decay, lambda_h=decay
        )
        for decay in (0.07, 0.09)
    ]
    assert below.min().item() == pytest.approx(found[0].objective, abs=1e-9)
    assert found[0].objective < 0.47
    assert above.min().item() > 0.5 - 1e-12
    assert above.max().item() > 0.52  # the local minimum is met
    assert found[1].objective == 0.5
    assert (far - 0.5).abs().max() < 1e-10
    assert all(layer.weight_rank == 0 for layer in model.collapse(11))


@pytest.mark.filterwarnings("ignore:overflow")
def test_every_run_has_a_status():
    model = two_classes([2, 2], [0, 1], lambdas=torch.tensor([[5e-3], [500.0]]))
    training = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=3000)
    assert training.status == (Status.MAX_STEPS, Status.DIVERGED)
    assert training.steps[1] < training.steps[0] == 3000
    assert math.isfinite(training.objective[0])


def test_checks_see_the_model_and_may_stop():
    model, seen = two_classes([2], [0]), []

    def on_check(step, current):
        seen.append((step, current.objective().item()))
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pnc.deep.gradient_descent(
            model, learning_rate=0.5, max_steps=100, check_every=10, on_check=on_check
        )
    assert [step for step, _ in seen] == [0, 10, 20]
    assert seen[2][1] == model.objective().item() < seen[0][1]
    rest = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=80)
    again = two_classes([2], [0])
    whole = pnc.deep.gradient_descent(again, learning_rate=0.5, max_steps=100)
    assert rest.objective.equal(whole.objective)


def test_bad_options_of_the_optimisers_are_named():
    model = two_classes([2], [0])
    with pytest.raises(ValueError, match="learning_rate must be > 0"):
        pnc.deep.gradient_descent(model, learning_rate=0.0, max_steps=1)
    with pytest.raises(ValueError, match="memory must be >= 1"):
        pnc.deep.lbfgs(model, memory=0)

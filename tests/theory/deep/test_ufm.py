import math

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.theory.status import Status

TWO = torch.arange(2).repeat_interleave(10)


def two_classes(depths, seeds, **changes):
    options = {"lambdas": 5e-3, "lambda_h": 5e-3, "depths": depths, "seeds": seeds, **changes}
    return pnc.deep.DeepUFM(TWO, [32] * max(depths), **options)


def optima(depths):
    found = [
        pnc.deep.deep_collapse_optimum(
            depth=d, num_classes=2, samples_per_class=10, lambdas=5e-3, lambda_h=5e-3
        ).objective
        for d in depths
    ]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("anchored", [True, False])
def test_gradient_is_that_of_autograd(relu, anchored):
    reference = torch.randn(20, 6, dtype=torch.float64) if anchored else None
    model = pnc.deep.DeepUFM(
        TWO, [6, 6, 6],
        lambdas=torch.rand(4, 3), lambda_h=torch.rand(4), depths=[3, 2, 1, 3], seeds=[0, 1, 2, 3],
        relu=relu, reference_features=reference, beta=torch.rand(4),
    )  # fmt: skip
    point = model.points() + 0.1 * torch.randn(model.points().shape, dtype=torch.float64)
    model.load_points(point)
    value, gradient = model.problem.value_and_gradient(point)
    model.objective().sum().backward()
    expected = torch.cat([p.grad.flatten(1) for p in model.parameters()], dim=1)
    active = gradient != 0  # weights before a run's depth stay at zero
    torch.testing.assert_close(value, model.objective().detach())
    torch.testing.assert_close(gradient[active], expected[active], rtol=1e-12, atol=1e-14)
    own = (20 * 6 + torch.tensor([2, 1, 0, 2]) * 36 + 12).tolist()
    assert (gradient != 0).sum(1).tolist() <= own


def test_the_objective_is_free_of_frame_and_of_labelling():
    model = pnc.deep.DeepUFM(TWO, [6, 5], lambdas=0.1, lambda_h=0.2, seeds=[0, 1])
    rotation = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    order = torch.randperm(5)
    turned = pnc.deep.DeepUFM(1 - TWO, [6, 5], lambdas=0.1, lambda_h=0.2, seeds=[0, 1])
    with torch.no_grad():  # rotate H_1, permute the neurons of H_2, swap the classes
        turned.features.copy_(model.features @ rotation)
        turned.weights[0].copy_((model.weights[0] @ rotation)[:, order])
        turned.weights[1].copy_(model.weights[1][:, :, order].flip(1))
    torch.testing.assert_close(turned.objective(), model.objective())
    torch.testing.assert_close(turned().flip(2), model())


def test_a_run_in_a_batch_is_a_run_alone():
    batch = two_classes([2, 3, 3], [5, 6, 7])
    alone = pnc.deep.DeepUFM(TWO, [32] * 3, lambdas=5e-3, lambda_h=5e-3, seeds=[6])
    shallow = pnc.deep.DeepUFM(TWO, [32] * 2, lambdas=5e-3, lambda_h=5e-3, seeds=[9])
    with torch.no_grad():  # the same start as the shallow run of the batch
        shallow.features.copy_(batch.features[:1])
        for mine, theirs in zip(shallow.weights, list(batch.weights)[1:], strict=True):
            mine.copy_(theirs[:1])
    results = [
        pnc.deep.gradient_descent(m, learning_rate=0.5, max_steps=200)
        for m in (batch, alone, shallow)
    ]
    assert results[0].objective[1].item() == pytest.approx(results[1].objective.item(), rel=1e-12)
    assert results[0].objective[0].item() == pytest.approx(results[2].objective.item(), rel=1e-12)
    assert len(batch.layers(0)) == len(batch.collapse(0)) == 2
    torch.testing.assert_close(batch.layers(0)[1].means, shallow.layers()[1].means)


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


def test_collapse_is_a_fixed_point_with_its_metrics():
    found = pnc.deep.deep_collapse_optimum(
        depth=3, num_classes=4, samples_per_class=3, lambdas=1e-3, lambda_h=1e-3
    )
    labels = torch.arange(4).repeat_interleave(3)
    model = pnc.deep.DeepUFM(labels, [9, 7, 8], lambdas=1e-3, lambda_h=1e-3, seeds=[0, 1])
    model.load_parameters(found.parameters([9, 7, 8]))
    training = pnc.deep.gradient_descent(model, learning_rate=0.1, max_steps=5)
    assert training.status == (Status.CONVERGED,) * 2
    assert training.steps.tolist() == [0, 0]
    assert training.objective[1].item() == pytest.approx(found.objective, rel=1e-14)
    for layer in model.collapse(1):
        assert layer.dnc1 == pytest.approx(0, abs=1e-25)
        assert layer.dnc2 == pytest.approx(1, abs=1e-12)
        assert layer.dnc3 == pytest.approx(0, abs=1e-12)
        assert layer.rank == layer.weight_rank == 4
    with torch.no_grad():
        model.weights[1][1, 0, 0] += 1
    assert model.collapse(1)[1].dnc3 > 1e-2


def test_few_classes_collapse_and_a_strongly_regular_start_stays_below():
    labels = torch.arange(10)
    strongly = pnc.deep.strongly_regular_solution(
        depth=4, num_classes=10, samples_per_class=1, lambdas=0.004, lambda_h=0.004
    )
    model = pnc.deep.DeepUFM(labels, [12] * 4, lambdas=0.004, lambda_h=0.004)
    model.load_parameters(strongly.parameters([12] * 4))
    assert model.objective().item() == pytest.approx(strongly.objective, abs=1e-14)
    training = pnc.deep.lbfgs(model, max_steps=50)
    assert training.objective.item() <= strongly.objective
    assert training.objective.item() < strongly.collapse


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": []}, "the number of widths must be >= 1"),
        ({"labels": [0, 2]}, "labels must hold every class"),
        ({"lambdas": [1.0, 2.0, 3.0]}, r"lambdas must broadcast to \(1, 2\), got \(3,\)"),
        ({"lambda_h": -1.0}, r"lambda_h must be finite and >= 0, got -1\.0"),
        ({"depths": [3]}, r"depths must be 1 values in 1..2, got \[3\]"),
        ({"depths": [1], "widths": [4, 3]}, "need equal widths"),
        ({"seeds": []}, "the number of seeds must be >= 1"),
        ({"reference_features": torch.zeros(3, 4)}, "one row a label: 3 for 20"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_named(change, message):
    arguments = {"labels": TWO, "widths": [4, 4], "lambdas": 0.1, "lambda_h": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        pnc.deep.DeepUFM(**arguments)


def test_bad_options_of_the_optimisers_are_named():
    model = two_classes([2], [0])
    with pytest.raises(ValueError, match="learning_rate must be > 0"):
        pnc.deep.gradient_descent(model, learning_rate=0.0, max_steps=1)
    with pytest.raises(ValueError, match="memory must be >= 1"):
        pnc.deep.lbfgs(model, memory=0)

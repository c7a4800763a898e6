import math

import pytest
import torch
from deep_models import direct_objective
from hypothesis import given, settings
from hypothesis import strategies as st

import perturb_nc as pnc
from perturb_nc.theory.deep.collapse import scalar_optimum


@pytest.mark.parametrize(
    ("num_layers", "published"), [(2, 0.0320827457), (3, 0.0354060429), (4, 0.0394955192)]
)
def test_published_values_of_two_classes(num_layers, published):
    found = pnc.deep.deep_collapse_optimum(
        num_layers=num_layers, num_classes=2, samples_per_class=10, lambdas=5e-3, lambda_h=5e-3
    )
    assert found.objective == pytest.approx(published, abs=5e-11)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("counts", [[4, 4, 4], [2, 3, 7]])
@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_parameters_attain_the_objective_and_are_stationary(num_layers, counts, relu):
    lambdas, lambda_h = [2e-3 * (layer + 1) for layer in range(num_layers)], 3e-3
    found = pnc.deep.deep_collapse_optimum(
        num_layers=num_layers,
        num_classes=3,
        samples_per_class=counts,
        lambdas=lambdas,
        lambda_h=lambda_h,
    )
    parameters = found.parameters([7, 3, 8, 5][:num_layers], seed=3)
    value = direct_objective(parameters, counts, lambdas, lambda_h, relu=relu)
    assert value.item() == pytest.approx(found.objective, abs=1e-15)
    leaves = [p.clone().requires_grad_() for p in (parameters[0], *parameters[1])]
    direct_objective((leaves[0], leaves[1:]), counts, lambdas, lambda_h, relu=relu).backward()
    assert max(leaf.grad.abs().max() for leaf in leaves) < 1e-14
    bent = [parameters[0], [1.01 * parameters[1][0], *parameters[1][1:]]]
    assert direct_objective(bent, counts, lambdas, lambda_h, relu=relu) > found.objective + 1e-7
    assert math.prod(found.singular_values[:, 0]) * found.feature_norms[0] == pytest.approx(
        found.outputs[0].item()
    )


def test_one_layer_is_the_unconstrained_features_model():
    penalties = pnc.deep.deep_penalties(lambda_w=0.5, lambda_h=0.08, num_classes=3, num_samples=12)
    deep = pnc.deep.deep_collapse_optimum(
        num_layers=1,
        num_classes=3,
        samples_per_class=4,
        lambdas=penalties.lambdas,
        lambda_h=penalties.lambda_h,
    )
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=0.5, lambda_h=0.08)
    assert deep.objective == pytest.approx(exact.objective, rel=1e-14)
    assert deep.feature_norms[0].item() == pytest.approx(math.sqrt(exact.rho))
    assert penalties == pnc.theory.deep.collapse.DeepPenalties(0.5 / 3, 0.08 / 12, 0.0)


@pytest.mark.parametrize("num_layers", [1, 2, 3, 6])
def test_the_optimum_jumps_at_the_threshold(num_layers):
    def optimum(factor):
        level = (num_layers - 1) ** (num_layers - 1) / (
            3 ** (num_layers + 1) * num_layers ** (2 * num_layers)
        )
        decay = (factor * level / 5) ** (1 / (num_layers + 1))
        return pnc.deep.deep_collapse_optimum(
            num_layers=num_layers, num_classes=3, samples_per_class=5, lambdas=decay, lambda_h=decay
        )

    below, above = optimum(1 - 1e-9), optimum(1 + 1e-9)
    assert below.strengths[0].item() == pytest.approx(below.thresholds[0].item())
    assert below.outputs[0].item() == pytest.approx((num_layers - 1) / num_layers, abs=1e-4)
    assert below.objective == pytest.approx(0.5, abs=1e-8)
    assert above.objective == 0.5
    assert not above.outputs.any()
    assert not above.singular_values.any()


@settings(max_examples=60, deadline=None)
@given(num_layers=st.integers(1, 8), coefficient=st.floats(1e-6, 1.5))
def test_the_scalar_optimum_is_below_a_grid(num_layers, coefficient):
    grid = torch.linspace(0, 1, 4001, dtype=torch.float64)
    values = 0.5 * (1 - grid) ** 2 + (num_layers + 1) / 2 * coefficient * grid ** (
        2 / (num_layers + 1)
    )
    p, value = scalar_optimum(num_layers, coefficient)
    assert value <= values.min() + 1e-15
    assert value >= values.min() - 1e-3
    assert p == 0 or values[values.argmin()] <= 0.5


def test_imbalanced_linear_optimum_against_brute_force():
    counts, lambdas, lambda_h = [1, 4, 12], [0.02, 0.04], 0.03
    found = pnc.deep.deep_collapse_optimum(
        num_layers=2, num_classes=3, samples_per_class=counts, lambdas=lambdas, lambda_h=lambda_h
    )
    labels = torch.arange(3).repeat_interleave(torch.tensor(counts))
    model = pnc.deep.DeepUFM(
        labels, [6, 5], lambdas=lambdas, lambda_h=lambda_h, seeds=range(40), relu=False
    )
    training = pnc.deep.lbfgs(model, max_steps=600)
    assert training.objective.min().item() == pytest.approx(found.objective, abs=1e-12)
    assert 0 < (found.outputs == 0).sum() < 3  # the smallest class is given up, others are kept
    best = int(training.objective.argmin())
    outputs = model()[best].detach()[[0, 1, 5]]
    torch.testing.assert_close(outputs, torch.diag(found.outputs), atol=1e-6, rtol=0)


def test_relabelling_classes_permutes_the_solution():
    arguments = {"num_layers": 3, "num_classes": 3, "lambdas": 1e-3, "lambda_h": 1e-3}
    one = pnc.deep.deep_collapse_optimum(samples_per_class=[2, 5, 9], **arguments)
    two = pnc.deep.deep_collapse_optimum(samples_per_class=[9, 2, 5], **arguments)
    assert two.objective == pytest.approx(one.objective, rel=1e-15)
    torch.testing.assert_close(two.singular_values, one.singular_values[:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 0}, "num_layers must be >= 1, got 0"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"lambdas": [1e-3]}, "lambdas must be one for each of 3 layers, got 1"),
        ({"lambdas": -1.0}, r"lambdas must be > 0, got -1\.0"),
        ({"lambda_h": 0.0}, "lambda_h must be > 0"),
        ({"samples_per_class": [1, 2]}, "samples_per_class must be one for each of 3 classes"),
        ({"samples_per_class": 0}, "samples_per_class must be >= 1, got 0"),
    ],
)
def test_bad_arguments_of_the_optimum_are_named(change, message):
    arguments = {
        "num_layers": 3, "num_classes": 3, "samples_per_class": 2,
        "lambdas": 1e-3, "lambda_h": 1e-3,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        pnc.deep.deep_collapse_optimum(**(arguments | change))


def test_other_bad_arguments_are_named():
    arguments = {"samples_per_class": 2, "lambdas": 1e-3, "lambda_h": 1e-3}
    with pytest.raises(ValueError, match=r"num_classes must be r\(r-1\)/2 .* got 8"):
        pnc.deep.strongly_regular_solution(num_layers=4, num_classes=8, **arguments)
    with pytest.raises(ValueError, match="num_layers must be >= 3, got 2"):
        pnc.deep.strongly_regular_solution(num_layers=2, num_classes=6, **arguments)
    strongly = pnc.deep.strongly_regular_solution(num_layers=3, num_classes=6, **arguments)
    with pytest.raises(ValueError, match="widths must be >= 6, got 5"):
        strongly.parameters([6, 6, 5])
    collapse = pnc.deep.deep_collapse_optimum(num_layers=3, num_classes=6, **arguments)
    with pytest.raises(ValueError, match="widths must be one for each of 3 layers, got 2"):
        collapse.parameters([6, 6])
    with pytest.raises(ValueError, match="widths must be >= 6, got 5"):
        collapse.parameters([6, 5, 6])

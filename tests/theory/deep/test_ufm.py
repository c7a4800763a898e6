import pytest
import torch
from deep_models import TWO

import perturb_nc as pnc


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


def test_few_classes_collapse_and_a_strongly_regular_start_stays_below():
    labels = torch.arange(10)
    strongly = pnc.deep.strongly_regular_solution(
        num_layers=4, num_classes=10, samples_per_class=1, lambdas=0.004, lambda_h=0.004
    )
    model = pnc.deep.DeepUFM(labels, [12] * 4, lambdas=0.004, lambda_h=0.004)
    model.load_parameters(strongly.parameters([12] * 4))
    assert model.objective().item() == pytest.approx(strongly.objective, abs=1e-14)
    training = pnc.deep.lbfgs(model, max_steps=50)
    assert training.objective.item() <= strongly.objective
    assert training.objective.item() < strongly.collapse


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": []}, "the number of widths must be >= 1"),
        ({"labels": [0, 2]}, "labels must hold every class"),
        ({"lambdas": [1.0, 2.0, 3.0]}, r"lambdas must broadcast to \(1, 2\), got \(3,\)"),
        ({"lambda_h": -1.0}, r"lambda_h must be finite and >= 0, got -1\.0"),
        ({"num_layers": [3]}, r"num_layers must be 1 values in 1..2, got \[3\]"),
        ({"num_layers": [1], "widths": [4, 3]}, "need equal widths"),
        ({"seeds": []}, "the number of seeds must be >= 1"),
        ({"reference_features": torch.zeros(3, 4)}, "one row a label: 3 for 20"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_named(change, message):
    arguments = {"labels": TWO, "widths": [4, 4], "lambdas": 0.1, "lambda_h": 0.1, **change}
    with pytest.raises(ValueError, match=message):
        pnc.deep.DeepUFM(**arguments)

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.theory.status import Status


def test_collapse_is_a_fixed_point_with_its_metrics():
    found = pnc.deep.deep_collapse_optimum(
        num_layers=3, num_classes=4, samples_per_class=3, lambdas=1e-3, lambda_h=1e-3
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

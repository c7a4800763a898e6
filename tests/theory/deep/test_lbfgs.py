import pytest
import torch
from deep_models import optima, two_classes

import perturb_nc as pnc


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


def test_only_zero_is_optimal_beyond_the_threshold():
    # λ = 0.0762 is the threshold, and up to 0.108 collapse is a local minimum still.
    decays = torch.tensor([0.07, 0.09, 0.12], dtype=torch.float64).repeat_interleave(4)
    model = two_classes([3] * 12, range(12), lambdas=decays[:, None], lambda_h=decays)
    training = pnc.deep.lbfgs(model, max_steps=300, tol=1e-7)
    below, above, far = training.objective.view(3, 4)
    found = [
        pnc.deep.deep_collapse_optimum(
            num_layers=3, num_classes=2, samples_per_class=10, lambdas=decay, lambda_h=decay
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

import pytest
import torch
from deep_models import TWO, two_classes

import perturb_nc as pnc


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("anchored", [True, False])
def test_gradient_is_that_of_autograd(relu, anchored):
    reference = torch.randn(20, 6, dtype=torch.float64) if anchored else None
    model = pnc.deep.DeepUFM(
        TWO, [6, 6, 6],
        lambdas=torch.rand(4, 3), lambda_h=torch.rand(4), num_layers=[3, 2, 1, 3],
        seeds=[0, 1, 2, 3],
        relu=relu, reference_features=reference, beta=torch.rand(4),
    )  # fmt: skip
    point = model.points() + 0.1 * torch.randn(model.points().shape, dtype=torch.float64)
    model.load_points(point)
    value, gradient = model.problem.value_and_gradient(point)
    model.objective().sum().backward()
    expected = torch.cat([p.grad.flatten(1) for p in model.parameters()], dim=1)
    active = gradient != 0  # weights before a run's own stay at zero
    torch.testing.assert_close(value, model.objective().detach())
    torch.testing.assert_close(gradient[active], expected[active], rtol=1e-12, atol=1e-14)
    own = (20 * 6 + torch.tensor([2, 1, 0, 2]) * 36 + 12).tolist()
    assert (gradient != 0).sum(1).tolist() <= own


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

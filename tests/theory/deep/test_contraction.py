import pytest
import torch

import perturb_nc as pnc
from perturb_nc.theory.deep.contraction import measured_contraction
from perturb_nc.theory.status import Status


@pytest.mark.parametrize(("num_layers", "value"), [(1, 0.50000), (2, 0.50912), (3, 0.51397)])
def test_published_contractions(num_layers, value):
    found = pnc.deep.anchored_contraction(
        num_layers=num_layers, lambda_w=0.1, lambda_h=0.1, beta=1.0
    )
    assert found == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_contraction_at_collapse_is_measured(num_layers):
    """Deviations off the means are solved for, not assumed: H0 = H* plus small deviations."""
    parameters = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0}
    penalties = pnc.deep.deep_penalties(lambda_w=0.1, lambda_h=0.1, num_classes=3, num_samples=15)
    collapse = pnc.deep.deep_collapse_optimum(
        num_layers=num_layers,
        num_classes=3,
        samples_per_class=5,
        lambdas=penalties.lambdas,
        lambda_h=penalties.lambda_h,
    )
    means, _ = collapse.parameters([8, 3, 3][:num_layers])
    labels = torch.arange(3).repeat_interleave(5)
    deviations = 1e-3 * torch.randn(15, 8, dtype=torch.float64)
    reference = pnc.ClassStatistics.from_features(means + deviations, labels)
    found = pnc.deep.minimize_anchored(
        pnc.deep.AnchoredDeepProblem(reference, num_layers=num_layers, **parameters)
    )
    assert found.status is Status.CONVERGED
    predicted = pnc.deep.anchored_contraction(num_layers=num_layers, **parameters)
    on, off = measured_contraction(reference, found.statistics, found.head)
    assert on == pytest.approx(predicted, abs=2e-4)
    assert off == pytest.approx(1 / 1.1, abs=1e-9)
    assert found.contractions.mean().item() == pytest.approx(predicted, abs=2e-4)
    # One more layer contracts by another number.
    other = pnc.deep.anchored_contraction(num_layers=num_layers + 1, **parameters)
    assert abs(on - other) > 1e-3


def test_a_relu_head_contracts_one_sidedly():
    """Between the linear head's contraction and none: a ReLU lets deviations of one sign pass."""
    parameters = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0}
    penalties = pnc.deep.deep_penalties(**parameters, num_classes=3, num_samples=90)
    collapse = pnc.deep.deep_collapse_optimum(
        num_layers=2,
        num_classes=3,
        samples_per_class=30,
        lambdas=penalties.lambdas,
        lambda_h=penalties.lambda_h,
    )
    start = collapse.parameters([8, 6])
    labels = torch.arange(3).repeat_interleave(30)
    reference = start[0] + 1e-3 * torch.randn(90, 8, dtype=torch.float64)
    statistics = pnc.ClassStatistics.from_features(reference, labels)
    measured = []
    for relu in (False, True):
        model = pnc.deep.DeepUFM(
            labels,
            [8, 6],
            lambdas=penalties.lambdas,
            lambda_h=penalties.lambda_h,
            beta=penalties.beta,
            reference_features=reference,
            relu=relu,
        )
        model.load_parameters(start)
        pnc.deep.lbfgs(model, max_steps=300, tol=1e-8)
        weight = model.weights[0][0].detach()
        measured.append(measured_contraction(statistics, model.layers()[0], weight))
    linear = pnc.deep.anchored_contraction(num_layers=2, **parameters)
    assert measured[0] == pytest.approx((linear, 1 / 1.1), abs=2e-4)
    assert linear + 0.1 < measured[1][0] < 1 / 1.1 - 0.1
    assert measured[1][1] == pytest.approx(1 / 1.1, abs=2e-4)

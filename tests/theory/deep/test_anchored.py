import pytest
import torch
from deep_models import PARAMETERS, anchored

import perturb_nc as pnc
from perturb_nc.theory.deep.contraction import measured_contraction
from perturb_nc.theory.status import Status


def test_gradient_against_differences():
    _, problem = anchored(3)
    weights = [torch.randn(s, dtype=torch.float64) for s in [(4, 12), (4, 4), (4, 4)]]
    _, gradient = problem.value_and_gradient(weights)
    for layer in range(3):
        move = torch.randn_like(weights[layer])
        ends = []
        for step in (1e-5, -1e-5):
            bent = [w + step * move if i == layer else w for i, w in enumerate(weights)]
            ends.append(problem.objective(bent))
        slope = (ends[0] - ends[1]) / 2e-5
        assert slope == pytest.approx((gradient[layer] * move).sum().item(), rel=1e-7)


def test_balanced_factors_are_the_cheapest():
    _, problem = anchored(3)
    head = torch.randn(4, 12, dtype=torch.float64)
    factors = problem.factors(head)
    torch.testing.assert_close(factors[2] @ factors[1] @ factors[0], head)
    cost = sum(w.square().sum() for w in factors)
    assert cost.item() == pytest.approx(3 * (torch.linalg.svdvals(head) ** (2 / 3)).sum().item())


def test_bad_arguments_are_named():
    dense, problem = anchored(2)
    with pytest.raises(ValueError, match="num_layers must be >= 1, got 0"):
        pnc.deep.AnchoredDeepProblem(dense.reduced.statistics, num_layers=0, **PARAMETERS)
    with pytest.raises(ValueError, match=r"lambda_w must be > 0, got 0\.0"):
        pnc.deep.AnchoredDeepProblem(
            dense.reduced.statistics, num_layers=2, lambda_w=0.0, lambda_h=0.1, beta=1.0
        )
    with pytest.raises(ValueError, match="max_steps must be >= 1"):
        pnc.deep.minimize_anchored(problem, max_steps=0)
    with pytest.raises(ValueError, match="features and weight must have the dimension 12"):
        measured_contraction(problem.statistics, problem.statistics, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="restarts must be >= 0, got -1"):
        pnc.deep.minimize_anchored(problem, restarts=-1)
    stopped = pnc.deep.minimize_anchored(problem, max_steps=1)
    assert stopped.status is Status.MAX_STEPS

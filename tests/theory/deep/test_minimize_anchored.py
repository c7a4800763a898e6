import pytest
import torch
from deep_models import PARAMETERS, anchored
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.deep.contraction import measured_contraction
from perturb_nc.theory.status import Status


@pytest.mark.parametrize("num_layers", [2, 3])
@pytest.mark.parametrize("counts", [None, (3, 6, 9, 4)])
def test_the_reduction_agrees_with_descent_on_all_features(num_layers, counts):
    dense, problem = anchored(num_layers, counts=counts)
    found = pnc.deep.minimize_anchored(problem)
    penalties = pnc.deep.deep_penalties(**PARAMETERS, num_classes=4, num_samples=len(dense.labels))
    model = pnc.deep.DeepUFM(
        dense.labels,
        [12, 6, 5][:num_layers],
        lambdas=penalties.lambdas,
        lambda_h=penalties.lambda_h,
        beta=penalties.beta,
        reference_features=dense.reference.mT,
        relu=False,
        seeds=range(3),
    )
    training = pnc.deep.lbfgs(model, max_steps=400, tol=1e-8)
    best = int(training.objective.argmin())
    assert training.objective[best].item() == pytest.approx(found.objective, abs=1e-11)
    for measured, predicted in zip(model.layers(best), found.layers(), strict=True):
        assert measured.within.trace().item() == pytest.approx(
            predicted.within.trace().item(), rel=1e-5
        )
    on, off = measured_contraction(
        problem.statistics, model.layers(best)[0], model.weights[0][best].detach()
    )
    inside = measured_contraction(problem.statistics, found.statistics, found.head)
    assert (on, off) == pytest.approx(inside, rel=1e-5)


def test_a_heavy_penalty_leaves_no_head():
    statistics = random_problem(seed=2).reduced.statistics
    problem = pnc.deep.AnchoredDeepProblem(
        statistics, num_layers=3, lambda_w=5.0, lambda_h=0.1, beta=0.5
    )
    found = pnc.deep.minimize_anchored(problem)
    assert not found.head.any()
    torch.testing.assert_close(found.statistics.means, statistics.means / 1.2)


@pytest.fixture(scope="module")
def several_minima():
    """From the optimum at L = 1 alone, descent converged 8.8 % above the least objective."""
    dense = random_problem(seed=516267, num_classes=5, dim=3, counts=(2, 20, 8, 20, 2))
    s, scale = dense.reduced.statistics, 0.22422875715937185
    scaled = s.moved(scale * s.means, scale**2 * s.within)
    return pnc.deep.AnchoredDeepProblem(
        scaled, num_layers=4, lambda_w=0.371, lambda_h=0.00662, beta=0.0636
    )


@pytest.mark.usefixtures("unchecked")
def test_other_starts_leave_a_worse_minimum(several_minima):
    alone = pnc.deep.minimize_anchored(several_minima, restarts=0)
    found = pnc.deep.minimize_anchored(several_minima)
    more = pnc.deep.minimize_anchored(several_minima, restarts=12)
    assert alone.status is found.status is Status.CONVERGED
    assert alone.objective > 1.05 * found.objective
    assert found.objective == pytest.approx(more.objective, rel=1e-8)
    assert (alone.starts, found.starts, more.starts) == (2, 6, 14)
    assert 1 <= found.agreeing < found.starts
    assert found.is_global is None
    assert found.lower_bound <= found.objective


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_lower_bound_is_below_every_minimum_and_its_own_at_one_layer(num_layers):
    _, problem = anchored(num_layers)
    found = pnc.deep.minimize_anchored(problem)
    single = pnc.minimize(problem.single_layer())
    if num_layers == 1:
        assert found.lower_bound == pytest.approx(single.certificate.lower_bound, rel=1e-9)
        assert found.starts == 1
        safe = {"num_layers": 1, "lambda_w": 1.0, "lambda_h": 0.1, "beta": 1.0}  # λ_W(λ_H + β) >= 1
        sure = pnc.deep.AnchoredDeepProblem(problem.statistics, **safe)
        assert pnc.deep.minimize_anchored(sure).is_global is True
        return
    # The chord: with λ_W' the problem of one layer is below (3) at every head with σ <= σ̂.
    slack = found.objective - problem.at(torch.zeros_like(found.head)).anchor_cost.item()
    largest = (2 * 4 * slack / (PARAMETERS["lambda_w"] * num_layers)) ** (num_layers / 2)
    assert torch.linalg.svdvals(found.head)[0] < largest
    chord = num_layers * largest ** (2 / num_layers - 2)
    relaxed = pnc.NearCollapseProblem(
        problem.statistics, **{**PARAMETERS, "lambda_w": chord * PARAMETERS["lambda_w"]}
    )
    for factor in (0.1, 0.5, 1.0):
        head = factor * found.head
        deep = problem.objective(problem.factors(head))
        assert relaxed.at(head).objective.item() <= deep
    expected = pnc.minimize(relaxed).certificate.lower_bound
    assert found.lower_bound == pytest.approx(expected, rel=1e-6)
    assert found.lower_bound < found.objective
    # At σ̂ both penalties are one.
    edge = largest * torch.eye(4, 12, dtype=torch.float64)
    assert relaxed.at(edge).objective.item() == pytest.approx(
        problem.objective(problem.factors(edge)), rel=1e-9
    )

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.deep.contraction import measured_contraction
from perturb_nc.theory.status import Status

PARAMETERS = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}


def anchored(depth, **changes):
    dense = random_problem(seed=2, **changes)
    return dense, pnc.deep.AnchoredDeepProblem(dense.reduced.statistics, depth=depth, **PARAMETERS)


@pytest.mark.parametrize(("depth", "value"), [(1, 0.50000), (2, 0.50912), (3, 0.51397)])
def test_published_contractions(depth, value):
    found = pnc.deep.anchored_contraction(depth=depth, lambda_w=0.1, lambda_h=0.1, beta=1.0)
    assert found == pytest.approx(value, abs=5e-6)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_contraction_at_collapse_is_measured(depth):
    """Deviations off the means are solved for, not assumed: H0 = H* plus small deviations."""
    parameters = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0}
    penalties = pnc.deep.deep_penalties(lambda_w=0.1, lambda_h=0.1, num_classes=3, num_samples=15)
    collapse = pnc.deep.deep_collapse_optimum(
        depth=depth,
        num_classes=3,
        samples_per_class=5,
        lambdas=penalties.lambdas,
        lambda_h=penalties.lambda_h,
    )
    means, _ = collapse.parameters([8, 3, 3][:depth])
    labels = torch.arange(3).repeat_interleave(5)
    deviations = 1e-3 * torch.randn(15, 8, dtype=torch.float64)
    reference = pnc.ClassStatistics.from_features(means + deviations, labels)
    found = pnc.deep.minimize_anchored(
        pnc.deep.AnchoredDeepProblem(reference, depth=depth, **parameters)
    )
    assert found.status is Status.CONVERGED
    predicted = pnc.deep.anchored_contraction(depth=depth, **parameters)
    on, off = measured_contraction(reference, found.statistics, found.head)
    assert on == pytest.approx(predicted, abs=2e-4)
    assert off == pytest.approx(1 / 1.1, abs=1e-9)
    assert found.contractions.mean().item() == pytest.approx(predicted, abs=2e-4)
    # One more layer contracts by another number.
    other = pnc.deep.anchored_contraction(depth=depth + 1, **parameters)
    assert abs(on - other) > 1e-3


def test_one_layer_is_the_near_collapse_model():
    dense, problem = anchored(1)
    found = pnc.deep.minimize_anchored(problem)
    single = pnc.minimize(pnc.NearCollapseProblem(dense.reduced.statistics, **PARAMETERS))
    assert found.objective == pytest.approx(single.objective, abs=1e-14)
    torch.testing.assert_close(found.statistics.means, single.statistics.means)
    contraction = pnc.deep.anchored_contraction(depth=1, **PARAMETERS)
    spectrum = pnc.near_collapse_spectrum(num_classes=3, dim=5, samples_per_class=4, **PARAMETERS)
    assert min(abs(spectrum.eigenvalues - contraction)) < 1e-14


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("counts", [None, (3, 6, 9, 4)])
def test_the_reduction_agrees_with_descent_on_all_features(depth, counts):
    dense, problem = anchored(depth, counts=counts)
    found = pnc.deep.minimize_anchored(problem)
    penalties = pnc.deep.deep_penalties(**PARAMETERS, num_classes=4, num_samples=len(dense.labels))
    model = pnc.deep.DeepUFM(
        dense.labels,
        [12, 6, 5][:depth],
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


def test_a_relu_head_contracts_one_sidedly():
    """Between the linear head's contraction and none: a ReLU lets deviations of one sign pass."""
    parameters = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0}
    penalties = pnc.deep.deep_penalties(**parameters, num_classes=3, num_samples=90)
    collapse = pnc.deep.deep_collapse_optimum(
        depth=2,
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
    linear = pnc.deep.anchored_contraction(depth=2, **parameters)
    assert measured[0] == pytest.approx((linear, 1 / 1.1), abs=2e-4)
    assert linear + 0.1 < measured[1][0] < 1 / 1.1 - 0.1
    assert measured[1][1] == pytest.approx(1 / 1.1, abs=2e-4)


def test_gradient_against_differences():
    _, problem = anchored(3)
    weights = [torch.randn(s, dtype=torch.float64) for s in [(4, 12), (4, 4), (4, 4)]]
    _, gradient = problem._value_and_gradient(weights)
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


def test_a_heavy_penalty_leaves_no_head():
    statistics = random_problem(seed=2).reduced.statistics
    problem = pnc.deep.AnchoredDeepProblem(
        statistics, depth=3, lambda_w=5.0, lambda_h=0.1, beta=0.5
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
        scaled, depth=4, lambda_w=0.371, lambda_h=0.00662, beta=0.0636
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
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_lower_bound_is_below_every_minimum_and_its_own_at_one_layer(depth):
    _, problem = anchored(depth)
    found = pnc.deep.minimize_anchored(problem)
    single = pnc.minimize(problem.single_layer())
    if depth == 1:
        assert found.lower_bound == pytest.approx(single.certificate.lower_bound, rel=1e-9)
        assert found.starts == 1
        safe = {"depth": 1, "lambda_w": 1.0, "lambda_h": 0.1, "beta": 1.0}  # λ_W(λ_H + β) >= 1
        sure = pnc.deep.AnchoredDeepProblem(problem.statistics, **safe)
        assert pnc.deep.minimize_anchored(sure).is_global is True
        return
    # The chord: with λ_W' the problem of one layer is below (3) at every head with σ <= σ̂.
    slack = found.objective - problem.at(torch.zeros_like(found.head)).anchor_cost.item()
    largest = (2 * 4 * slack / (PARAMETERS["lambda_w"] * depth)) ** (depth / 2)
    assert torch.linalg.svdvals(found.head)[0] < largest
    chord = depth * largest ** (2 / depth - 2)
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


def test_bad_arguments_are_named():
    dense, problem = anchored(2)
    with pytest.raises(ValueError, match="depth must be >= 1, got 0"):
        pnc.deep.AnchoredDeepProblem(dense.reduced.statistics, depth=0, **PARAMETERS)
    with pytest.raises(ValueError, match=r"lambda_w must be > 0, got 0\.0"):
        pnc.deep.AnchoredDeepProblem(
            dense.reduced.statistics, depth=2, lambda_w=0.0, lambda_h=0.1, beta=1.0
        )
    with pytest.raises(ValueError, match="max_steps must be >= 1"):
        pnc.deep.minimize_anchored(problem, max_steps=0)
    with pytest.raises(ValueError, match="features and weight must have the dimension 12"):
        measured_contraction(problem.statistics, problem.statistics, torch.zeros(4, 3))
    with pytest.raises(ValueError, match="restarts must be >= 0, got -1"):
        pnc.deep.minimize_anchored(problem, restarts=-1)
    stopped = pnc.deep.minimize_anchored(problem, max_steps=1)
    assert stopped.status is Status.MAX_STEPS

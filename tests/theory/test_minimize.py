import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from problems import OPTIMA, DenseProblem, random_problem

import perturb_nc as pnc


@pytest.mark.parametrize("case", OPTIMA.values(), ids=OPTIMA)
def test_no_worse_than_long_alternating_minimisation(case):
    dense = random_problem(seed=1, **case)
    solution = pnc.minimize(dense.reduced)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.gradient_norm <= 1e-10
    assert solution.objective <= dense.alternate(2000) + 1e-9


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    log_w=st.floats(-3, 0.5),
    log_h=st.floats(-4, 0.5),
    log_beta=st.floats(-6, 2),
    bias=st.booleans(),
)
def test_converges_over_a_wide_range(seed, log_w, log_h, log_beta, bias):
    dense = random_problem(
        seed=seed, lambda_w=10**log_w, lambda_h=10**log_h, beta=10**log_beta, bias=bias
    )
    solution = pnc.minimize(dense.reduced)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.gradient_norm <= 1e-10
    point = dense.reduced.at(solution.weight)
    for _ in range(3):  # the second-order condition
        direction = torch.randn_like(solution.weight)
        curvature = (direction * point.hessian_vector_product(direction)).sum()
        assert curvature >= -1e-9


@pytest.mark.parametrize("bias", [False, True])
def test_unconstrained_balanced_optimum_is_exact_collapse(bias):
    dense = random_problem(seed=3, beta=0.0, bias=bias, lambda_w=0.3, lambda_h=0.2)
    solution = pnc.minimize(dense.reduced)
    exact = pnc.exact_collapse(num_classes=4, dim=12, lambda_w=0.3, lambda_h=0.2, bias=bias)
    assert solution.objective == pytest.approx(exact.objective, rel=1e-12)
    # Unique up to rotation: compare Gram matrices.
    gram = solution.statistics.means @ solution.statistics.means.mT
    torch.testing.assert_close(gram, exact.means @ exact.means.mT, rtol=1e-8, atol=1e-9)
    assert solution.statistics.within.abs().max() < 1e-20
    if bias:
        torch.testing.assert_close(solution.bias, exact.bias, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("bias", [False, True])
def test_strong_decay_gives_exactly_zero(bias):
    dense = random_problem(seed=3, beta=0.0, lambda_w=1.5, lambda_h=1.0, bias=bias)
    solution = pnc.minimize(dense.reduced)
    assert not solution.weight.any()
    assert solution.steps == 0
    assert solution.certificate.is_global
    assert solution.objective == pytest.approx(0.375 if bias else 0.5, rel=1e-14)


def test_limits_of_the_anchor():
    loose = random_problem(seed=4, beta=1e-9)
    free = pnc.minimize(random_problem(seed=4, beta=0.0).reduced)
    assert pnc.minimize(loose.reduced).objective == pytest.approx(free.objective, abs=1e-7)
    gaps = []
    for beta in (1e3, 1e4):
        tight = random_problem(seed=4, beta=beta)
        features = pnc.minimize(tight.reduced).features(tight.reference.mT, tight.labels)
        gaps.append((features.mT - tight.reference).norm().item())
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.05)  # H - H0 is O(1/β)


def test_cost_does_not_depend_on_the_number_of_samples():
    few = random_problem(seed=6)
    many = DenseProblem(
        few.reference.repeat(1, 50), few.labels.repeat(50), few.lambda_w, few.lambda_h, few.beta
    )
    a, b = pnc.minimize(few.reduced), pnc.minimize(many.reduced)
    assert (a.steps, a.products) == (b.steps, b.products)
    torch.testing.assert_close(a.weight, b.weight, rtol=1e-9, atol=1e-10)


def test_a_time_limit_returns_what_there_is():
    problem = random_problem(seed=1, beta=0.01).reduced
    solution = pnc.minimize(problem, time_limit=1e-9)
    assert solution.status is pnc.Status.TIME_LIMIT
    assert "raise it, or go on from this result" in solution.status.value
    assert solution.steps == 0
    assert math.isnan(solution.lowest_curvature)
    assert solution.objective == pytest.approx(problem.objective(solution.weight), rel=1e-12)
    again = pnc.minimize(problem, initial_weight=solution.weight, time_limit=600)
    assert again.status is pnc.Status.CONVERGED


def test_progress_is_told_of_every_step():
    told = []
    solution = pnc.minimize(
        random_problem(seed=1).reduced, progress=lambda step, norm: told.append((step, norm))
    )
    assert [step for step, _ in told] == list(range(solution.steps + 1))
    assert told[-1][1] == pytest.approx(solution.gradient_norm, rel=0.5)


def test_with_bias_an_offset_costs_nothing():
    plain = pnc.minimize(random_problem(seed=0, bias=True, lambda_h=0.0).reduced)
    dense = random_problem(seed=0, bias=True, lambda_h=0.0, offset=1e6)
    moved = pnc.minimize(dense.reduced)
    assert moved.status is pnc.Status.CONVERGED
    torch.testing.assert_close(moved.weight, plain.weight, rtol=0, atol=1e-7)


@pytest.mark.parametrize("bias", [False, True])
def test_unconstrained_balanced_optimum_needs_no_search(bias):
    for seed in range(20):
        dense = random_problem(seed=seed, beta=0.0, bias=bias, lambda_w=1e-3, lambda_h=1e-5)
        dense.reference *= 10
        solution = pnc.minimize(dense.reduced)
        exact = pnc.exact_collapse(num_classes=4, dim=12, lambda_w=1e-3, lambda_h=1e-5, bias=bias)
        assert solution.objective == pytest.approx(exact.objective, rel=1e-10)
        assert solution.certificate.is_global


def test_second_order_convergence_in_few_steps():
    labels = torch.arange(2000) % 10
    features = torch.randn(2000, 64) + 2 * torch.eye(10, 64)[labels]
    statistics = pnc.ClassStatistics.from_features(features, labels)
    problem = pnc.NearCollapseProblem(statistics, lambda_w=5e-3, lambda_h=5e-3, beta=1.0)
    solution = pnc.minimize(problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.steps <= 5
    assert solution.products <= 25


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "num_classes"), [(4096, 10), (2048, 1000)])
def test_large_problems(dim, num_classes):
    torch.set_num_threads(2)
    labels = torch.arange(3 * num_classes + 2000) % num_classes
    features = torch.randn(len(labels), dim)
    statistics = pnc.ClassStatistics.from_features(features, labels)
    problem = pnc.NearCollapseProblem(statistics, lambda_w=5e-3, lambda_h=5e-3, beta=1.0)
    solution = pnc.minimize(problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.steps <= 5


def test_bad_arguments_are_named():
    dense = random_problem(seed=1)
    problem = dense.reduced
    with pytest.raises(ValueError, match=r"tol must be > 0, got 0\.0"):
        pnc.minimize(problem, tol=0)
    with pytest.raises(ValueError, match="max_steps must be >= 1, got 0"):
        pnc.minimize(problem, max_steps=0)
    with pytest.raises(ValueError, match=r"time_limit must be > 0, got -1\.0"):
        pnc.minimize(problem, time_limit=-1.0)
    with pytest.raises(ValueError, match=r"initial_weight must have shape \(4, 12\)"):
        pnc.minimize(problem, initial_weight=torch.zeros(12, 4))
    solution = pnc.minimize(problem)
    with pytest.raises(ValueError, match="reference_features must have dimension 12, got 5"):
        solution.features(torch.zeros(3, 5), [0, 1, 2])
    with pytest.raises(ValueError, match="labels must be < num_classes = 4, got 4"):
        solution.features(torch.zeros(3, 12), [0, 1, 4])


@pytest.mark.parametrize(("noise", "proven"), [(0.1, True), (1.0, False)])
def test_a_wide_problem_has_the_optimum_of_all_dimensions(noise, proven):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = noise * torch.randn(300, 80, generator=generator, dtype=torch.float64)
    features[:, :3] += torch.eye(3, dtype=torch.float64)[labels]
    reference = pnc.ClassStatistics.from_features(features, labels)
    problem = pnc.NearCollapseProblem(reference, lambda_w=5e-3, lambda_h=5e-3, beta=1.0)
    narrow = pnc.minimize(problem)
    whole = pnc.minimize(problem, initial_weight=problem.central_path_weight())
    for solution in (narrow, whole):
        assert solution.status is pnc.Status.CONVERGED
        assert solution.gradient_norm <= 1e-10
        assert solution.certificate.is_global is proven
        assert math.isnan(solution.lowest_curvature) is proven
    assert narrow.objective == pytest.approx(whole.objective, rel=1e-13)
    torch.testing.assert_close(narrow.weight, whole.weight, rtol=0, atol=1e-8)


def test_solutions_are_ordinary_tensors():
    problem = random_problem(seed=0, bias=True).reduced
    solution = pnc.minimize(problem)
    handed = (solution.weight, solution.bias, solution.statistics.means, problem.statistics.priors)
    assert not any(x.is_inference() for x in handed)

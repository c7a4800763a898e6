import math

import hypothesis.strategies as st
import pytest
import torch
from dense_cross_entropy import CASES, dense_cross_entropy
from hypothesis import given, settings

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.minimize import CrossEntropySolution, _starting_weight
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_stationary_in_all_unknowns_with_no_direction_down(case):
    dense = dense_cross_entropy(seed=1, **case)
    solution = pnc.minimize(dense.problem)
    assert solution.status is pnc.Status.CONVERGED
    assert isinstance(solution, CrossEntropySolution)
    assert solution.gradient_norm <= 1e-10
    features = solution.features(dense.reference, dense.labels)
    flat = dense.joined(solution.weight, solution.bias, features)
    assert solution.objective == pytest.approx(dense.value(flat).item(), rel=1e-12)
    flat.requires_grad_(True)
    gradient = torch.autograd.grad(dense.value(flat), flat)[0]
    assert gradient.norm() < 1e-9
    roots = torch.linalg.eigvalsh(dense.hessian(flat.detach()))
    assert roots[0] > -1e-9 * roots[-1]
    assert (solution.bias is None) == (not dense.has_bias)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_statistics_are_those_of_the_samples(case):
    dense = dense_cross_entropy(seed=2, **case)
    solution = pnc.minimize(dense.problem)
    features = solution.features(dense.reference, dense.labels)
    exact = pnc.ClassStatistics.from_features(features, dense.labels)
    size = exact.means.abs().max().item() ** 2
    for name in ("means", "within", "class_variance"):
        got, wanted = getattr(solution.statistics, name), getattr(exact, name)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-13 * size)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    log_w=st.floats(-4, 0.5),
    log_h=st.floats(-4, 0.5),
    log_beta=st.floats(-4, 2),
    bias=st.booleans(),
)
def test_converges_over_a_wide_range(seed, log_w, log_h, log_beta, bias):
    strengths = {"lambda_w": 10**log_w, "lambda_h": 10**log_h, "beta": 10**log_beta}
    dense = dense_cross_entropy(seed=seed, bias=bias, dim=12, **strengths)
    solution = pnc.minimize(dense.problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.gradient_norm <= 1e-10
    assert solution.certificate.gap >= -1e-12


def test_weight_rows_and_free_bias_add_up_to_zero():
    solution = pnc.minimize(dense_cross_entropy(seed=3).problem)
    assert solution.weight.sum(0).abs().max() < 1e-9
    assert solution.bias.sum().abs() < 1e-9


@pytest.mark.parametrize("bias", [False, True])
def test_without_anchor_the_optimum_is_the_collapsed_one(bias):
    # λ_W|W|²/K = λ_H|H|²/N, and 1 - p_y + p_other = √(λ_Wλ_H).
    dense = dense_cross_entropy(seed=4, beta=0.0, lambda_w=0.3, lambda_h=0.2, bias=bias, dim=12)
    solution = pnc.minimize(dense.problem)
    c0 = math.sqrt(0.3 * 0.2)
    gap = math.log(1 + 4 * (1 - c0) / c0)
    frame = torch.eye(4, dtype=torch.float64) - 0.25
    gram = solution.statistics.means @ solution.statistics.means.mT
    torch.testing.assert_close(gram, gap * math.sqrt(0.3 / 0.2) * frame, rtol=1e-8, atol=1e-9)
    assert solution.statistics.within.abs().max() < 1e-20
    assert solution.certificate.is_global


def test_strong_decay_gives_exactly_zero():
    dense = dense_cross_entropy(seed=4, beta=0.0, lambda_w=1.5, lambda_h=1.0)
    solution = pnc.minimize(dense.problem)
    assert not solution.weight.any()
    assert solution.certificate.is_global
    assert solution.objective == pytest.approx(math.log(4), rel=1e-14)


def test_leaves_the_saddle_at_zero():
    # No class means in H0: W = 0 is stationary, and not optimal while c0 < 1.
    dense = dense_cross_entropy(seed=5, lambda_w=0.01)
    means = dense.problem.statistics.means
    dense.reference = dense.reference - means[dense.labels]
    problem, zero = dense.problem, torch.zeros(4, 8)
    assert problem.gradient(zero).abs().max() < 1e-15
    solution = pnc.minimize(problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.objective < problem.objective(zero) - 1e-3


def test_limits_of_the_anchor():
    loose = pnc.minimize(dense_cross_entropy(seed=6, beta=1e-9).problem)
    free = pnc.minimize(dense_cross_entropy(seed=6, beta=0.0).problem)
    assert loose.objective == pytest.approx(free.objective, abs=1e-7)
    moves = []
    for beta in (1e3, 1e4):
        dense = dense_cross_entropy(seed=6, beta=beta)
        features = pnc.minimize(dense.problem).features(dense.reference, dense.labels)
        moves.append((features - dense.reference).norm().item())
    assert moves[1] == pytest.approx(moves[0] / 10, rel=0.05)  # H - H0 is O(1/β)


def test_samples_count_by_their_share():
    few = dense_cross_entropy(seed=7)
    many = dense_cross_entropy(seed=7)
    many.reference, many.labels = few.reference.repeat(20, 1), few.labels.repeat(20)
    a, b = pnc.minimize(few.problem), pnc.minimize(many.problem)
    torch.testing.assert_close(a.weight, b.weight, rtol=1e-8, atol=1e-9)
    assert a.objective == pytest.approx(b.objective, rel=1e-12)
    weighted = dense_cross_entropy(seed=7, class_weights=(2.0,) * 4, lambda_h=0.04, beta=1.0)
    weighted.lambda_w *= 2  # f twice as large throughout
    assert pnc.minimize(weighted.problem).objective == pytest.approx(2 * a.objective, rel=1e-10)


def test_few_steps_from_zero():
    labels = torch.arange(1000) % 10
    features = (torch.randn(1000, 40) + 3 * torch.eye(10, 40)[labels]) / 40**0.5
    problem = CrossEntropyProblem(features, labels, lambda_w=5e-3, lambda_h=5e-3, beta=1.0)
    solution = pnc.minimize(problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.steps <= 9
    assert solution.products <= 45


def test_stops_at_max_steps_and_says_so():
    problem = dense_cross_entropy(seed=1).problem
    solution = pnc.minimize(problem, max_steps=1)
    assert solution.status is pnc.Status.MAX_STEPS
    again = pnc.minimize(problem, initial_weight=solution.weight)
    assert again.status is pnc.Status.CONVERGED


def test_bad_arguments_are_named():
    problem = dense_cross_entropy(seed=1).problem
    with pytest.raises(ValueError, match=r"tol must be > 0, got 0\.0"):
        pnc.minimize(problem, tol=0)
    with pytest.raises(ValueError, match="max_steps must be >= 1, got 0"):
        pnc.minimize(problem, max_steps=0)
    with pytest.raises(ValueError, match=r"initial_weight must have shape \(4, 8\)"):
        pnc.minimize(problem, initial_weight=torch.zeros(8, 4))
    solution = pnc.minimize(problem)
    with pytest.raises(ValueError, match="reference_features must have dimension 8, got 5"):
        solution.features(torch.zeros(3, 5), [0, 1, 2])
    with pytest.raises(ValueError, match="labels must be < num_classes = 4, got 4"):
        solution.features(torch.zeros(3, 8), [0, 1, 4])
    with pytest.raises(ValueError, match=r"too badly scaled for float64 .*; rescale the features"):
        pnc.minimize(problem, initial_weight=torch.full((4, 8), 1e160, dtype=torch.float64))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"bias": False, "label_smoothing": 0.1},
        pytest.param(
            {"bias_decay": True, "class_weights": (1.0, 2.0, 0.5)}, marks=pytest.mark.slow
        ),
        pytest.param({"beta": 0.0, "lambda_h": 0.05}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_with_many_samples_it_comes_to_the_same_optimum(options):
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.arange(2) % 2, (torch.rand(2100, generator=generator) > 0.3).long()])
    labels = torch.cat([labels, torch.tensor([2])])  # a class of one sample
    x = torch.eye(3, 4, dtype=torch.float64)[labels]
    x = x + 0.5 * torch.randn(len(x), 4, generator=generator, dtype=torch.float64) + 3.0
    strengths = {"lambda_w": 0.02, "lambda_h": 0.01, "beta": 0.5} | options
    problem = CrossEntropyProblem(x, labels, **strengths)
    few = problem.at(_starting_weight(problem)).weight[0, :, :4]
    plain = pnc.minimize(problem, initial_weight=few)
    found = pnc.minimize(problem)
    assert found.status is pnc.Status.CONVERGED
    assert found.objective == pytest.approx(plain.objective, rel=1e-11)
    if strengths["beta"] > 0:
        torch.testing.assert_close(found.weight, plain.weight, rtol=1e-6, atol=1e-8)


def test_many_badly_scaled_samples_are_named():
    labels = torch.arange(2000) % 2
    with pytest.raises(ValueError, match="too badly scaled for float64"):
        pnc.minimize(
            CrossEntropyProblem(
                1e160 * torch.eye(2, 3, dtype=torch.float64)[labels], labels,
                lambda_w=1e-3, lambda_h=1e-3, beta=1.0,
            )
        )  # fmt: skip

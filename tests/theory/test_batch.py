import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory import batch
from perturb_nc.theory.compression import compress
from perturb_nc.theory.response import weight_response

GRID = {
    "lambda_w": [0.05, 0.2, 0.01, 0.05, 3.0, 0.05, 1e-3],
    "lambda_h": [0.02, 0.0, 0.1, 0.02, 2.0, 0.5, 1e-3],
    "beta": [0.5, 0.5, 3.0, 0.05, 0.3, 0.0, 0.2],
}


def statistics(seed=0, **shape):
    return random_problem(seed=seed, **shape).reduced.statistics


def settings_of(found, i):
    return {name: float(getattr(found, name)[i]) for name in GRID}


WIDE = {"dim": 70, "counts": (30, 50, 40)}  # where the batch is solved on a subspace


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [{"dim": 8}, {"counts": (3, 9, 5)}, WIDE])
def test_a_batch_is_the_single_solutions(shape, bias):
    reference = statistics(**shape)
    found = pnc.minimize_batch(reference, **GRID, bias=bias)
    assert len(found) == len(GRID["beta"])
    for i in range(len(found)):
        problem = pnc.NearCollapseProblem(reference, **settings_of(found, i), bias=bias)
        single = pnc.minimize(problem)
        assert found.status[i] is single.status
        assert float(found.objective[i]) == pytest.approx(single.objective, rel=1e-10)
        assert problem.at(found.weight(i)).gradient_norm <= 1e-10
        assert bool(found.is_global[i]) is single.certificate.is_global
        assert float(found.gap[i]) == pytest.approx(single.certificate.gap, abs=1e-9)
        if float(found.beta[i]) > 0:
            torch.testing.assert_close(found.weight(i), single.weight, rtol=0, atol=1e-8)
            metrics = pnc.collapse_metrics(single.statistics, single.weight).as_dict()
            for name, value in metrics.items():
                assert float(found.metrics[name][i]) == pytest.approx(
                    value, rel=1e-7, abs=1e-9, nan_ok=True
                )
        torch.testing.assert_close(
            found.singular_values[i], torch.linalg.svdvals(single.weight), rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("shape", [{"dim": 8}, WIDE])
def test_derivatives_are_the_response_in_logs(shape):
    found = pnc.minimize_batch(statistics(**shape), **GRID)
    slopes = found.derivatives()
    for i in (0, 2, 3):
        response = pnc.hyperparameter_response(found.solution(i))
        for parameter in GRID:
            scale = settings_of(found, i)[parameter]
            for name in ("nc1", "nc1_trace", "nc2_etf", "cdnv", "nc3_duality"):
                expected = response.metrics[parameter][name] * scale
                assert float(slopes[name][parameter][i]) == pytest.approx(expected, rel=1e-5)
            expected = response.objective[parameter] * scale
            assert float(slopes["objective"][parameter][i]) == pytest.approx(expected, rel=1e-5)
    assert slopes["nc1"]["lambda_w"][5].isnan()  # beta = 0: a continuum of optima


@pytest.mark.parametrize("parameter", ["lambda_w", "lambda_h", "beta"])
def test_derivatives_against_central_differences(parameter):
    reference, h = statistics(**WIDE), 1e-4
    base = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}
    shifted = [{**base, parameter: base[parameter] * math.exp(s)} for s in (0.0, h, -h)]
    found = pnc.minimize_batch(reference, **{name: [x[name] for x in shifted] for name in base})
    for name in ("nc1", "nc2_etf", "cdnv", "dnc2"):
        slope = float(found.derivatives()[name][parameter][0])
        values = found.metrics[name]
        difference = float((values[1] - values[2]) / (2 * h))
        assert slope == pytest.approx(difference, rel=1e-5)
        assert 1.01 * slope != pytest.approx(difference, rel=1e-5)


def test_predicted_weight_is_right_to_first_order():
    reference = statistics(**WIDE)
    one = pnc.minimize_batch(reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.5])
    errors = []
    for factor in (1.08, 1.04, 1.02):
        exact = pnc.minimize_batch(
            reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.5 * factor]
        ).weight(0)
        errors.append((one.predicted_weight([0.5 * factor])[0] - exact).norm().item())
    slopes = [math.log2(a / b) for a, b in pairwise(errors)]
    assert min(slopes) > 1.8
    start = one.predicted_weight([0.52])
    warm = pnc.minimize_batch(
        reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.52], initial_weight=start
    )
    cold = pnc.minimize_batch(reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.52])
    torch.testing.assert_close(warm.weight(0), cold.weight(0), rtol=0, atol=1e-8)


@pytest.mark.parametrize("shape", [{"dim": 8}, WIDE])
def test_a_time_limit_returns_what_there_is(shape):
    found = pnc.minimize_batch(statistics(**shape), **GRID, time_limit=1e-9)
    unfinished = found.gradient_norm > 1e-10
    assert unfinished.any()
    for i in range(len(found)):
        if unfinished[i]:
            assert found.status[i] is pnc.Status.TIME_LIMIT
    told = []
    pnc.minimize_batch(
        statistics(**shape), **GRID, progress=lambda step, norm: told.append((step, norm))
    )
    assert told[0][0] == 0
    assert told[-1][1] < 1e-6 < told[0][1]


def test_chunks_change_nothing(monkeypatch):
    reference = statistics(**WIDE)
    whole = pnc.minimize_batch(reference, **GRID)
    monkeypatch.setattr(batch, "_BYTES", 1)
    parts = pnc.minimize_batch(reference, **GRID)
    torch.testing.assert_close(whole.objective, parts.objective, rtol=1e-12, atol=0)
    torch.testing.assert_close(whole.metrics["nc1"], parts.metrics["nc1"], rtol=1e-8, atol=1e-10)


def test_derivatives_do_not_depend_on_what_is_solved_together(monkeypatch):
    found = pnc.minimize_batch(statistics(**WIDE), **GRID, bias=True)
    whole = found.derivatives()
    monkeypatch.setattr(batch, "_CACHED", 1)
    for name, slopes in found.derivatives().items():
        for parameter, slope in slopes.items():
            torch.testing.assert_close(
                slope, whole[name][parameter], rtol=1e-8, atol=1e-10, equal_nan=True
            )


def test_several_right_hand_sides_are_those_of_one():
    found = pnc.minimize_batch(statistics(**WIDE), **GRID)
    for _, _, point in found._points():
        change = torch.diag_embed(point.hyperparameters).movedim(-2, 0)
        together, isolated = weight_response(point, change)
        for i, own in enumerate(change):
            single, alone = weight_response(point, own)
            assert alone.equal(isolated[i])
            torch.testing.assert_close(together[i][alone], single[alone], rtol=1e-8, atol=1e-9)


def test_what_a_subspace_neglects_is_measured(monkeypatch):
    reference = statistics(seed=3, **WIDE)
    row = torch.tensor([[0.05, 0.02, 0.1]], dtype=torch.float64)
    monkeypatch.setattr("perturb_nc.theory.compression._ROUNDS", 1)
    space = compress(reference, row)
    assert space.basis is not None
    torch.testing.assert_close(
        space.basis.mT @ space.basis,
        torch.eye(space.basis.shape[1], dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    settings = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.1}
    inner = pnc.minimize(pnc.NearCollapseProblem(space.statistics, **settings))
    point = pnc.NearCollapseProblem(space.statistics, **settings).at(inner.weight)
    full = pnc.NearCollapseProblem(reference, **settings).at(space.lifted(inner.weight))
    assert full.gradient_norm > 1e-9
    found = torch.hypot(point.gradient_norm, space.neglected(point))
    torch.testing.assert_close(found, full.gradient_norm, rtol=1e-6, atol=0)
    # ... and what is not good enough is finished in all dimensions.
    found = pnc.minimize_batch(reference, **{name: [v] for name, v in settings.items()})
    assert found.gradient_norm[0] <= 1e-10


@given(
    logs=st.lists(st.tuples(*[st.floats(-2.5, 0.5)] * 3), min_size=1, max_size=4),
    seed=st.integers(0, 3),
)
@settings(max_examples=10, deadline=None)
def test_where_r_is_at_most_one_the_gap_closes(logs, seed):
    columns = [[10.0 ** v[i] for v in logs] for i in range(3)]
    found = pnc.minimize_batch(
        statistics(seed), lambda_w=columns[0], lambda_h=columns[1], beta=columns[2]
    )
    proven = found.spectral_ratio <= 1
    assert (found.gap[proven] <= 1e-9).all()
    assert (found.gap >= -1e-12).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"beta": [1.0]}, r"must have one length, got \(7, 7, 1\)"),
        ({"lambda_w": [-1.0] * 7}, "lambda_w must be > 0, got -1.0"),
        ({"tol": 0.0}, "tol must be > 0"),
        ({"max_steps": 0}, "max_steps must be >= 1"),
        ({"time_limit": 0.0}, "time_limit must be > 0"),
        ({"initial_weight": torch.zeros(2, 4, 12)}, r"initial_weight must have shape \(7, 4, 12\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        pnc.minimize_batch(statistics(), **{**GRID, **change})


def test_a_subspace_grows_where_the_features_ask_for_it():
    torch.manual_seed(0)
    spread = torch.arange(1, 161, dtype=torch.float64) ** -1.0  # a heavy tail, as in networks
    labels = torch.arange(600) % 3
    features = torch.randn(600, 160, dtype=torch.float64) * spread
    features[:, :3] += 2 * torch.eye(3, dtype=torch.float64)[labels]
    reference = pnc.ClassStatistics.from_features(features, labels)
    settings = {"lambda_w": [1e-4, 1e-2, 1e-1], "lambda_h": [1e-3] * 3, "beta": [1.0] * 3}
    found = pnc.minimize_batch(reference, **settings)
    sizes = [part.space.statistics.dim for part in found._parts]
    assert sizes == sorted(set(sizes))
    assert 33 < max(sizes) < 160  # it grew, and held all without all dimensions
    assert float(found.gradient_norm.max()) <= 1e-10
    for i in range(3):
        single = pnc.minimize(found.solution(i).problem)
        assert single.objective == pytest.approx(float(found.objective[i]), rel=1e-12)
        point = found.solution(i).problem.at(found.weight(i))
        assert float(point.gradient_norm) <= 1.01e-10

import pytest
import torch
from batches import GRID, WIDE, settings_of, statistics
from hypothesis import given, settings
from hypothesis import strategies as st

import perturb_nc as pnc


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

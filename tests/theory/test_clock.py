"""Time limits and progress mean the same in every verb that can take long."""

import inspect
import math
from types import SimpleNamespace

import pytest
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study.predict import predict_layers
from perturb_nc.theory import clock as module
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.flow.central_path import central_path_flows
from perturb_nc.theory.flow.chain import chain
from perturb_nc.theory.status import Status

VERBS = (
    pnc.minimize,
    pnc.minimize_batch,
    pnc.sweep,
    pnc.central_path_flow,
    central_path_flows,
    pnc.FlowPath.extend,
    pnc.FlowPath.from_last,
    pnc.cascade,
    chain,
    pnc.calibrate_depth,
    pnc.fit_regularization,
    pnc.compare_layers,
    pnc.sampling_intervals,
    pnc.deep.minimize_anchored,
    predict_layers,
)
PARAMETERS = {"lambda_w": 0.05, "lambda_h": 0.02}
LIMIT = 1000.0


@pytest.fixture
def hands(monkeypatch):
    """A clock that moves by 2 ms when it is looked at, or as it is told to."""
    now = [0.0]

    def monotonic():
        now[0] += 2e-3
        return now[0]

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=monotonic))

    def after(calls):
        """A progress callback with which LIMIT is up at that call, and what it saw."""
        seen = []

        def progress(done, measure):
            seen.append((done, measure))
            now[0] += 2 * LIMIT * (len(seen) == calls)

        return progress, seen

    return after


def statistics(seed=1):
    return random_problem(seed=seed, dim=8, num_classes=3, counts=(9, 5, 7)).reduced.statistics


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__qualname__)
def test_every_long_verb_takes_both_as_its_last_arguments(verb):
    parameters = list(inspect.signature(verb).parameters.values())
    assert [p.name for p in parameters[-2:]] == ["time_limit", "progress"]
    assert [p.default for p in parameters[-2:]] == [math.inf, None]
    assert {p.kind for p in parameters[-2:]} == {inspect.Parameter.KEYWORD_ONLY}


def test_the_clock_of_a_part_has_the_same_limit(hands):
    progress, seen = hands(2)
    whole = Clock.of(LIMIT, progress)
    part = whole.silent()
    part.report(1, 0.0)
    assert seen == []
    assert part.left() == pytest.approx(LIMIT, rel=1e-4)
    whole.report(1, 0.5)
    whole.report(2, 0.25)
    assert whole.expired()
    assert part.expired()
    assert part.left() == 1e-3


def test_a_flow_is_told_of_every_step_and_goes_on(hands):
    progress, seen = hands(5)
    path = pnc.central_path_flow(
        statistics(), **PARAMETERS, times=[50.0], time_limit=LIMIT, progress=progress
    )
    assert path.status is Status.TIME_LIMIT
    assert [steps for steps, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[-1][1] == path.times[-1] < 50
    progress, seen = hands(3)
    more = path.extend([50.0], time_limit=LIMIT, progress=progress)
    assert (more.status, len(seen), len(more)) == (Status.TIME_LIMIT, 3, 2)
    assert seen[-1][1] == more.times[-1] > path.times[-1]
    settings = {name: [value] for name, value in PARAMETERS.items()}
    progress, seen = hands(2)
    (only,) = central_path_flows(
        statistics(), **settings, times=[50.0], time_limit=LIMIT, progress=progress
    )
    assert (only.status, len(seen)) == (Status.TIME_LIMIT, 2)


def test_a_cascade_keeps_the_layers_it_has(hands):
    progress, seen = hands(2)
    betas = [2.0, 1.0, 0.5, 0.25]
    found = pnc.cascade(
        statistics(), **PARAMETERS, betas=betas, time_limit=LIMIT, progress=progress
    )
    assert found.status is Status.TIME_LIMIT
    assert [s.status for s in found.solutions[:2]] == [Status.CONVERGED] * 2
    assert len(found) == 3
    assert seen[1] == (2, found[1].gradient_norm)


def on_a_path(lambda_w=0.1):
    start, times = statistics(), [0.2, 0.5]
    path = pnc.central_path_flow(start, lambda_w=lambda_w, lambda_h=0.0, times=times, rtol=1e-3)
    return {"a": start} | {name: path.statistics(i) for i, name in enumerate("bc")}


def test_a_calibration_keeps_its_best_and_the_layers_placed(hands):
    layers = on_a_path()
    progress, seen = hands(2)
    found = pnc.calibrate_depth(layers, rtol=1e-3, time_limit=LIMIT, progress=progress)
    assert found.status is Status.TIME_LIMIT
    assert [n for n, _ in seen] == [1, 2]
    assert found.placed == ["b", "c"]
    assert 1e-6 < found.lambda_w < 1e2
    progress, seen = hands(1)
    given = pnc.calibrate_depth(
        layers, lambda_w=0.1, rtol=1e-3, time_limit=LIMIT, progress=progress
    )
    assert (given.status, given.placed) == (Status.TIME_LIMIT, ["b"])
    assert seen == [(1, given.times["b"])]
    none = pnc.calibrate_depth(layers, time_limit=1e-9)
    assert (none.status, none.placed) == (Status.TIME_LIMIT, [])
    with pytest.raises(ValueError, match="time_limit must be > 0, got 0"):
        pnc.calibrate_depth(layers, time_limit=0.0)


def test_a_comparison_names_what_the_time_did_not_reach():
    seen = []
    table = pnc.compare_layers(
        on_a_path(),
        name="n",
        lambda_w=0.1,
        time_limit=1e-9,
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(1, 2), (2, 2)]
    assert table["fit_status"].values.tolist()[1:] == ["time_limit"] * 2
    assert table["path_status"].values.tolist()[1:] == ["time_limit"] * 2
    late = table["reason"].sel(model=["pair", "path"], layer=["b", "c"])
    assert (late == "time_limit came first").all()
    assert table["predicted"].sel(model="interpolation", layer="b").notnull().any()


def test_intervals_and_predictions_keep_the_layers_they_have(hands):
    problem = random_problem(seed=1, dim=5, counts=(8, 9, 7))
    x, y = problem.reference.mT, problem.labels
    progress, seen = hands(1)
    found = pnc.sampling_intervals({"a": x, "b": x}, y, time_limit=LIMIT, progress=progress)
    assert seen == [(1, 2), (2, 2)]
    assert found.sel(layer="a", quantity="nc1_trace").notnull().all()
    assert found.sel(layer="b").isnull().all()
    assert "b, nc1_trace: time_limit came first" in found.attrs["reasons"]
    progress, seen = hands(1)
    predicted = predict_layers(
        {"a": statistics(), "b": statistics(2)}, **PARAMETERS, beta=0.01, time_limit=LIMIT,
        progress=progress,
    )  # fmt: skip
    status = [p.solution.status for p in predicted.values()]
    assert status == [Status.CONVERGED, Status.TIME_LIMIT]
    assert seen == [(1, 2), (2, 2)]


def test_descents_of_deep_heads_end_in_time(hands):
    problem = pnc.deep.AnchoredDeepProblem(statistics(), num_layers=2, **PARAMETERS, beta=0.5)
    progress, seen = hands(1)
    found = pnc.deep.minimize_anchored(problem, time_limit=LIMIT, progress=progress)
    assert found.status is Status.TIME_LIMIT
    assert [n for n, _ in seen] == [1, 2, 3, 4, 5]
    assert found.objective <= seen[0][1]

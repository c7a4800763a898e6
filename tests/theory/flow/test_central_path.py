import numpy as np
import pytest
import torch
from flows import cases, flow, full_flow, problem, propagators
from problems import DenseProblem

import perturb_nc as pnc
from perturb_nc.networks import load_dataset
from perturb_nc.theory.status import Status


@cases
def test_against_radau_on_the_full_matrix(case):
    dense, times = problem(**case), [0.3, 2.0]
    path = flow(dense, times=times, rtol=1e-10)
    assert path.status is Status.FINISHED
    for i, features in enumerate(full_flow(dense, times)):
        transported = path.features(dense.reference.mT, dense.labels, i)
        torch.testing.assert_close(transported, features, rtol=0, atol=1e-8)
        expected = pnc.ClassStatistics.from_features(features, dense.labels)
        found = path.statistics(i)
        torch.testing.assert_close(found.means, expected.means, rtol=0, atol=1e-8)
        torch.testing.assert_close(found.within, expected.within, rtol=0, atol=1e-8)


def monotone_quantities(statistics, time, lambda_h):
    between = statistics.centered_means.square().sum() / statistics.num_classes
    growth = np.exp(2 * lambda_h * time)
    trace = statistics.within.trace()
    return (trace / between).item(), growth * trace.item(), growth * between.item()


@pytest.mark.parametrize("lambda_h", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("data", ["random", "digits"])
def test_theorem_at_every_accepted_step(lambda_h, data):
    if data == "random":
        statistics = problem(seed=3).reduced.statistics
    else:
        digits = load_dataset("digits")
        # 139 to 146 samples a class: the theorem is one of balanced classes.
        kept = torch.cat([(digits.labels == k).nonzero()[:139, 0] for k in range(10)])
        statistics = pnc.ClassStatistics.from_features(digits.inputs[kept], digits.labels[kept])
        assert statistics.counts.unique().tolist() == [139]
    seen = [monotone_quantities(statistics, 0.0, lambda_h)]

    def record(time, now):
        seen.append(monotone_quantities(now, time, lambda_h))

    pnc.central_path_flow(
        statistics, lambda_w=0.05, lambda_h=lambda_h, times=[10.0], rtol=1e-6, on_step=record
    )
    assert len(seen) > 10
    nc1, within, between = np.array(seen).T
    # Late in a path the changes are as small as rounding.
    assert (np.diff(nc1) < 1e-13 * nc1[:-1]).all()
    assert (np.diff(within) < 1e-13 * within[:-1]).all()
    assert (np.diff(between) > -1e-13 * between[:-1]).all()
    assert nc1[-1] < 0.95 * nc1[0]
    assert within[-1] < 0.99 * within[0]
    assert between[-1] > 1.01 * between[0]


def test_the_theorem_is_not_one_of_imbalanced_classes():
    # One feature: the pull on a class is π_kμ_k, and the second mean overtakes the first.
    spread = 3**0.5
    features = [2 - spread, 2 + spread] + [1 - spread, 1 + spread] * 4
    reference = torch.tensor(features, dtype=torch.float64)[None]
    dense = DenseProblem(reference, torch.tensor([0] * 2 + [1] * 8), 0.1, 0.01, 0.0)
    path = flow(dense, times=[50.0], until={"nc1_trace": 647.0}, rtol=1e-8)
    assert path.status is Status.EVENT
    at_start = pnc.collapse_metrics(path.reference)
    assert at_start.nc1_trace == pytest.approx(12.0)
    features = full_flow(dense, [path.times[-1].item()])[0]
    judge = pnc.ClassStatistics.from_features(features, dense.labels)
    assert pnc.collapse_metrics(judge).nc1_trace == pytest.approx(647.0, rel=1e-5)
    gap = path.extend([50.0]).means[-1]
    assert gap[0] < gap[1]  # the means have crossed
    # As many samples of the first class as of the second: it falls.
    balanced = DenseProblem(
        torch.cat([reference[:, :2].repeat(1, 4), reference[:, 2:]], dim=1),
        torch.tensor([0] * 8 + [1] * 8),
        0.1,
        0.01,
        0.0,
    )
    metrics = [m.nc1_trace for m in flow(balanced, times=[0.5, 1.0, 5.0, 50.0]).metrics]
    assert (np.diff([12.0, *metrics]) < 0).all()


@pytest.mark.parametrize("lambda_h", [0.0, 0.02])
@pytest.mark.parametrize("seed", [0, 1])
def test_what_holds_for_imbalanced_classes(seed, lambda_h):
    seen = []

    def record(time, now):
        seen.append(monotone_quantities(now, time, lambda_h)[1])

    dense = problem(seed=seed, counts=(2, 9, 5, 4), lambda_h=lambda_h)
    path = flow(dense, times=[10.0], on_step=record)
    traces = np.array([path.reference.within.trace().item(), *seen])
    assert (np.diff(traces) < 0).all()
    # Its rate, from the definition: -2 tr(WΣ_WWᵀ), by differences over a short time.
    near = flow(dense, times=[1e-4], rtol=1e-12).statistics(0)
    weight = dense.best_weight(dense.reference)
    rate = -2 * (weight @ path.reference.within @ weight.mT).trace()
    change = monotone_quantities(near, 1e-4, lambda_h)[1] - traces[0]
    assert change / 1e-4 == pytest.approx(rate.item(), rel=1e-3)


def test_the_theorem_is_not_one_of_the_anchored_flow():
    # Towards H0 again: with β > 0 trΣ_W rises once the weight has weakened.
    dense = problem(seed=0, beta=0.05, lambda_h=0.3, lambda_w=0.9)
    path = flow(dense, times=np.linspace(1, 30, 10).tolist())
    traces = [path.statistics(i).within.trace().item() for i in range(len(path))]
    scaled = np.exp(2 * dense.lambda_h * path.times.numpy()) * traces
    assert (np.diff(scaled) > 0).any()


def test_anchored_flow_ends_at_the_optimum():
    dense = problem(seed=2, beta=0.7)
    path = flow(dense, times=[1e5], rtol=1e-9, until={"speed": 1e-8})
    assert path.status is Status.EVENT
    solution = pnc.minimize(dense.reduced)
    torch.testing.assert_close(path.means[-1], solution.statistics.means, rtol=0, atol=1e-6)
    within = path.statistics(-1).within
    torch.testing.assert_close(within, solution.statistics.within, rtol=0, atol=1e-6)


def test_batch_of_hyperparameters_is_the_single_flows():
    dense = problem(seed=2)
    statistics = dense.reduced.statistics
    settings = {
        "lambda_w": [0.05, 0.2, 0.05],
        "lambda_h": [0.02, 0.0, 0.1],
        "beta": [0.0, 0.5, 1.0],
    }
    paths = pnc.theory.central_path_flows(statistics, **settings, times=[0.5, 3.0], rtol=1e-9)
    for b, path in enumerate(paths):
        own = {name: values[b] for name, values in settings.items()}
        assert {name: getattr(path, name) for name in own} == own
        single = pnc.central_path_flow(statistics, **own, times=[0.5, 3.0], rtol=1e-9)
        torch.testing.assert_close(path.means, single.means, rtol=0, atol=1e-7)
        torch.testing.assert_close(propagators(path), propagators(single), rtol=0, atol=1e-7)


def test_cost_does_not_depend_on_the_number_of_samples():
    few = problem(seed=6)
    many = DenseProblem(
        few.reference.repeat(1, 50), few.labels.repeat(50), few.lambda_w, few.lambda_h, 0.0
    )
    a, b = flow(few, times=[5.0]), flow(many, times=[5.0])
    assert a.cost == b.cost
    torch.testing.assert_close(a.means, b.means, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": []}, "times must be a list of increasing numbers"),
        ({"times": [1.0, 1.0]}, "times must be a list of increasing numbers"),
        ({"times": [-1.0]}, "times must be >= 0, got -1.0"),
        ({"lambda_w": 0.0}, "lambda_w must be > 0"),
        ({"lambda_h": -1.0}, "lambda_h must be >= 0"),
        ({"beta": float("nan")}, "beta must be finite"),
        ({"time_limit": 0.0}, "time_limit must be > 0, got 0.0"),
        ({"rtol": 0.0}, "rtol must be > 0"),
        ({"method": "euler"}, "method must be one of exponential, DOP853, Radau, got 'euler'"),
        ({"until": {"nc9": 1.0}}, r"until must name metrics .*got \['nc9'\]"),
        (
            {"until": {"nc1": 1.0}, "method": "Radau"},
            "takes no batch, until, on_step, time_limit or progress",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        flow(problem(), **{"times": [1.0], **change})

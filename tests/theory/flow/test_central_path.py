import dataclasses

import numpy as np
import pytest
import torch
from problems import DenseProblem, random_problem
from scipy.integrate import solve_ivp

import perturb_nc as pnc
from perturb_nc.networks import load_dataset
from perturb_nc.theory.flow import exponential
from perturb_nc.theory.flow import space as flow_space
from perturb_nc.theory.flow.integrators import Exponential
from perturb_nc.theory.flow.space import FlowSpace
from perturb_nc.theory.status import Status

CASES = {
    "central path": {},
    "imbalanced": {"counts": (3, 9, 5, 4)},
    "no feature decay": {"lambda_h": 0.0},
    "anchored": {"beta": 0.7},
    "anchored, imbalanced, no feature decay": {
        "beta": 0.7,
        "counts": (3, 9, 5, 4),
        "lambda_h": 0.0,
    },
    "fewer dimensions than classes": {"dim": 3},
    "in a subspace": {"dim": 20, "counts": (6, 9)},
    "anchored, in a subspace": {"dim": 20, "counts": (6, 9), "beta": 0.7},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def problem(seed=0, **case):
    return random_problem(seed=seed, **{"dim": 8, "beta": 0.0, **case})


def flow(dense, **keywords):
    statistics = pnc.ClassStatistics.from_features(dense.reference.mT, dense.labels)
    arguments = {
        "lambda_w": dense.lambda_w,
        "lambda_h": dense.lambda_h,
        "beta": dense.beta,
        **keywords,
    }
    return pnc.central_path_flow(statistics, **arguments)


def propagators(path):
    return torch.stack([path.propagator(i) for i in range(len(path))])


def full_flow(dense, times):
    """Radau on the full d×N matrix, from the definition of the flow."""
    shape = dense.reference.shape

    def rate(_, flat):
        h = torch.from_numpy(flat).reshape(shape)
        w = dense.best_weight(h)
        pull = w.mT @ (w @ h - dense.onehot) + dense.lambda_h * h
        return (-pull + dense.beta * (dense.reference - h)).flatten().numpy()

    start = dense.reference.flatten().numpy()
    solution = solve_ivp(rate, (0, times[-1]), start, "Radau", times, rtol=1e-11, atol=1e-12)
    return [torch.from_numpy(column.copy()).reshape(shape).mT for column in solution.y.T]


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


@pytest.mark.parametrize("method", ["DOP853", "Radau"])
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_judges_agree(method, beta):
    dense, times = problem(beta=beta, dim=5), [0.5, 1.5]
    path = flow(dense, times=times, rtol=1e-10)
    judge = flow(dense, times=times, method=method, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(path.means, judge.means, rtol=0, atol=1e-8)
    torch.testing.assert_close(propagators(path), propagators(judge), rtol=0, atol=1e-8)


def slopes(dense, order):
    judge = flow(dense, times=[1.0], method="DOP853", rtol=1e-13, atol=1e-14)
    errors = []
    for steps in {2: (8, 16, 32), 4: (8, 16)}[order]:
        path = flow(dense, times=[1.0], method=Exponential(order=order, step=1 / steps))
        assert path.cost.steps == steps
        gap = (path.means - judge.means).norm() + (propagators(path) - propagators(judge)).norm()
        errors.append(gap.item())
    return -np.diff(np.log2(errors))


@cases
@pytest.mark.parametrize("order", [2, 4])
def test_observed_order(case, order):
    found = slopes(problem(**case), order)
    assert (found > order - 0.35).all()
    assert (found < order + 0.8).all()


def test_a_one_percent_mutation_breaks_the_order(monkeypatch):
    exact = exponential.METHODS[4]
    final = dataclasses.replace(exact.final, of=lambda k: 1.01 * exact.final.of(k))
    monkeypatch.setitem(exponential.METHODS, 4, dataclasses.replace(exact, final=final))
    assert (slopes(problem(), 4) < 1).all()


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


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("step", [0.1, 10.0, 1e4, 1e7])
@pytest.mark.parametrize("lambda_w", [1e-6, 0.05])
def test_structure_is_kept_at_any_step_size(order, step, lambda_w):
    dense = problem(seed=1, lambda_h=1e-3 / step, lambda_w=lambda_w)
    path = flow(dense, times=[step, 2 * step, 3 * step], method=Exponential(order=order, step=step))
    assert path.cost.steps == 3
    previous = path.reference.within.trace()
    for i, time in enumerate(path.times):
        within = path.statistics(i).within
        assert torch.linalg.eigvalsh(within).min() >= -1e-13 * within.trace()
        scaled = torch.exp(2 * path.lambda_h * time) * within.trace()
        assert scaled <= previous * (1 + 1e-9)
        previous = scaled


def test_stiff_flow_needs_no_tiny_steps():
    # Rates up to 1/(4λ_W/K) = 1e6 for the weakest means, on a path of length 10.
    dense = problem(seed=1, lambda_w=1e-6)
    path = flow(dense, times=[10.0], rtol=1e-6)
    assert path.status is Status.FINISHED
    assert path.cost.steps < 1000
    judge = flow(dense, times=[10.0], method="Radau", rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(path.means, judge.means, rtol=0, atol=2e-4)


def test_anchored_flow_ends_at_the_optimum():
    dense = problem(seed=2, beta=0.7)
    path = flow(dense, times=[1e5], rtol=1e-9, until={"speed": 1e-8})
    assert path.status is Status.EVENT
    solution = pnc.minimize(dense.reduced)
    torch.testing.assert_close(path.means[-1], solution.statistics.means, rtol=0, atol=1e-6)
    within = path.statistics(-1).within
    torch.testing.assert_close(within, solution.statistics.within, rtol=0, atol=1e-6)


def test_stops_where_a_metric_reaches_a_value():
    dense = problem(seed=2)
    path = flow(dense, times=[100.0], until={"nc1_trace": 0.5, "cdnv": 1e-9}, rtol=1e-8)
    assert path.status is Status.EVENT
    assert 0 < path.times[-1] < 100
    assert path.metrics[-1].nc1_trace == pytest.approx(0.5, rel=1e-9)
    judge = flow(dense, times=[path.times[-1].item()], method="DOP853", rtol=1e-10, atol=1e-12)
    assert judge.metrics[-1].nc1_trace == pytest.approx(0.5, rel=1e-6)


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


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_resumes_saves_loads_and_gives_dense_output(tmp_path, beta):
    dense = problem(seed=2, beta=beta)
    whole = flow(dense, times=[0.5, 1.0, 4.0], rtol=1e-10)
    part = flow(dense, times=[0.5, 1.0], rtol=1e-10)
    part.save(tmp_path / "path.safetensors")
    loaded = pnc.FlowPath.load(tmp_path / "path.safetensors")
    assert propagators(loaded).equal(propagators(part))
    assert (loaded.status, loaded.cost, loaded.beta) == (part.status, part.cost, beta)
    longer = loaded.extend([4.0])
    assert longer.times.tolist() == [0.5, 1.0, 4.0]
    assert longer.cost.steps > part.cost.steps
    torch.testing.assert_close(longer.means, whole.means, rtol=0, atol=1e-8)
    torch.testing.assert_close(propagators(longer), propagators(whole), rtol=0, atol=1e-8)
    for time in (0.0, 0.2, 2.5):
        judge = flow(dense, times=[max(time, 1e-12)], method="DOP853", rtol=1e-11, atol=1e-13)
        found, expected = whole.at(time), judge.statistics(0)
        torch.testing.assert_close(found.means, expected.means, rtol=0, atol=1e-8)
        torch.testing.assert_close(found.within, expected.within, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match=r"time must be <= 4.0, got 5.0; use extend"):
        whole.at(5.0)
    with pytest.raises(ValueError, match=r"times must not lie before 4.0"):
        whole.extend([3.0])
    pnc.save_layers({"": dense.reduced.statistics}, tmp_path / "layer.safetensors")
    with pytest.raises(ValueError, match="holds no flow path"):
        pnc.FlowPath.load(tmp_path / "layer.safetensors")


def test_cost_does_not_depend_on_the_number_of_samples():
    few = problem(seed=6)
    many = DenseProblem(
        few.reference.repeat(1, 50), few.labels.repeat(50), few.lambda_w, few.lambda_h, 0.0
    )
    a, b = flow(few, times=[5.0]), flow(many, times=[5.0])
    assert a.cost == b.cost
    torch.testing.assert_close(a.means, b.means, rtol=0, atol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_the_subspace_grows_as_accuracy_asks(beta):
    dense = problem(seed=6, dim=60, counts=(40, 60), beta=beta)
    judge = flow(dense, times=[10.0], method="DOP853", rtol=1e-12, atol=1e-13)
    sizes = []
    for rtol in (1e-4, 1e-7, 1e-10):
        path = flow(dense, times=[10.0], rtol=rtol)
        sizes.append(path.cost.dimension)
        torch.testing.assert_close(path.means, judge.means, rtol=0, atol=10 * rtol)
        torch.testing.assert_close(propagators(path), propagators(judge), rtol=0, atol=10 * rtol)
    assert sizes == sorted(sizes)
    assert sizes[-1] < 60
    if beta == 0:
        assert sizes[0] < sizes[-1]


def test_a_subspace_too_small_is_noticed(monkeypatch):
    dense = problem(seed=6, dim=60, counts=(40, 60))
    monkeypatch.setattr(flow_space, "BLOCKS", 2)
    judge = flow(dense, times=[10.0], method="DOP853", rtol=1e-12, atol=1e-13)
    path = flow(dense, times=[10.0], rtol=1e-8)
    torch.testing.assert_close(path.means, judge.means, rtol=0, atol=1e-7)
    monkeypatch.setattr(FlowSpace, "neglected", lambda *_: 0.0)
    blind = flow(dense, times=[10.0], rtol=1e-8)
    assert blind.cost.dimension == 4
    assert (blind.means - judge.means).abs().max() > 1e-5


def test_what_is_neglected_is_the_residual_of_the_weight(monkeypatch):
    monkeypatch.setattr(flow_space, "BLOCKS", 3)
    reference = problem(seed=6, dim=40, counts=(40, 60)).reduced.statistics
    path = pnc.central_path_flow(reference, lambda_w=0.05, lambda_h=0.02, times=[3.0], rtol=1e-2)
    space, state = path._space(), path._state(0)
    weight = space.model.weight(state)
    now, w = path.statistics(0), weight[0] @ space.basis[0].mT
    ridge = 0.05 / 2 * torch.eye(40)
    pull = now.priors[:, None] * now.means
    residual = (w @ (now.second_moment + ridge) - pull) / path.outer[0]
    square = ((residual @ torch.linalg.inv(reference.second_moment + ridge)) * residual).sum()
    expected = (square / (w * pull).sum()).sqrt().item()
    assert expected > 1e-7
    assert space.neglected(state, weight) == pytest.approx(expected, rel=1e-8)


def test_collapsed_features_stay_on_their_ray():
    # H0 = the optimum's frame, scaled: M = aR; W* and the flow stay on multiples of R.
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=0.3, lambda_h=0.2)
    start = dataclasses.replace(exact, means=0.3 * exact.means).statistics(4)
    path = pnc.central_path_flow(start, lambda_w=0.3, lambda_h=0.2, times=[200.0], rtol=1e-9)
    torch.testing.assert_close(path.means[-1], exact.means, rtol=0, atol=1e-6)


def test_features_that_decayed_are_said_to_have():
    path = flow(problem(lambda_h=50.0), times=[1.0, 1e4], rtol=1e-2)
    assert path.status is Status.DECAYED
    assert "lower lambda_h" in path.status.value
    assert path.times[0] == 1.0
    assert 10 < path.times[-1] < 11  # means decay at λ_H - 1/λ_W = 30: e^{-30t} = 1e-139 at 10.7
    assert not path.status.is_done


def test_within_class_deviations_may_vanish_where_means_stay():
    path = flow(problem(lambda_w=0.05, lambda_h=0.5), times=[2e3], rtol=1e-4)
    assert path.status is Status.FINISHED
    assert path.reference.within.trace() > 1
    assert path.statistics(0).within.trace() == 0
    solved = pnc.exact_collapse(num_classes=3, dim=8, lambda_w=0.05, lambda_h=0.5)
    assert path.means[0].norm() > 0.5 * solved.means.norm()


def test_stops_at_the_time_limit_and_goes_on_from_there():
    path = flow(problem(), times=[1.0, 10.0], time_limit=1e-9, rtol=1e-9)
    assert path.status is Status.TIME_LIMIT
    assert path.times[-1] < 1.0
    whole = flow(problem(), times=[1.0], rtol=1e-9)
    torch.testing.assert_close(path.extend([1.0]).means[-1], whole.means[0], rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", [Exponential(order=2, step=1 / 16), Exponential(max_steps=7)])
def test_a_path_goes_on_with_its_own_method(tmp_path, method):
    path = flow(problem(), times=[0.25, 0.5], method=method)
    path.save(tmp_path / "path.safetensors")
    for kept in (path, pnc.FlowPath.load(tmp_path / "path.safetensors")):
        assert kept.method == method
        if method.step is None:
            longer = kept.extend([40.0])
            assert longer.status is Status.MAX_STEPS
        else:
            longer = kept.extend([1.0])
            assert longer.cost.steps == 16
            one_step = problem_step(path, 1 / 16)
            torch.testing.assert_close(kept.at(0.3125).means, one_step, rtol=0, atol=1e-14)
        assert longer.method == method


def problem_step(path, size):
    """Class means one midpoint step after the first time of a path."""
    space, state = path._space(), path._state(0)
    weight = space.model.weight(state)
    new, *_ = exponential.magnus_step(space.model, state, weight, size, 2)
    return (new.means @ space.basis.mT)[0]


def test_a_judge_goes_on_as_a_judge(tmp_path):
    path = flow(problem(dim=4), times=[0.5], method="Radau", rtol=1e-8, atol=1e-10)
    path.save(tmp_path / "path.safetensors")
    loaded = pnc.FlowPath.load(tmp_path / "path.safetensors")
    assert loaded.method == path.method
    whole = flow(problem(dim=4), times=[1.0], method="DOP853", rtol=1e-11, atol=1e-13)
    assert loaded.extend([1.0]).cost.rejected == 0
    torch.testing.assert_close(loaded.extend([1.0]).means[-1], whole.means[0], rtol=0, atol=1e-6)


def test_stops_at_max_steps_and_says_so():
    path = flow(problem(), times=[10.0, 20.0], method=Exponential(max_steps=3))
    assert path.status is Status.MAX_STEPS
    assert len(path) == 1
    assert path.times[0] < 10


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


def test_bad_methods_and_batches_are_named():
    statistics = problem().reduced.statistics
    with pytest.raises(ValueError, match=r"order must be one of \(2, 4\), got 3"):
        Exponential(order=3)
    with pytest.raises(ValueError, match=r"must have one length, got \(2, 1, 2\)"):
        pnc.theory.central_path_flows(statistics, lambda_w=[1.0, 1.0], lambda_h=[1.0], times=[1.0])


@pytest.mark.parametrize("method", ["DOP853", "Radau"])
def test_a_judge_needs_no_absolute_tolerance(method):
    start = random_problem(seed=0).reduced.statistics  # Ψ begins with zeros
    options = {"lambda_w": 0.05, "lambda_h": 0.01, "times": [2.0], "rtol": 1e-8}
    found = pnc.central_path_flow(start, **options, method=method).statistics(0)
    own = pnc.central_path_flow(start, **options).statistics(0)
    torch.testing.assert_close(found.means, own.means, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.within, own.within, rtol=1e-6, atol=1e-8)

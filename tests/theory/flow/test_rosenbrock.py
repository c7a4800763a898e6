import collocation
import numpy as np
import pytest
import torch
from problems import random_problem
from scipy.integrate import solve_ivp

import perturb_nc as pnc
from perturb_nc.theory.flow import rosenbrock
from perturb_nc.theory.flow.space import FlowSetting
from perturb_nc.theory.status import Status

CASES = {
    "central path": {},
    "imbalanced, no feature decay": {"counts": (3, 9, 5, 4), "lambda_h": 0.0},
    "anchored": {"beta": 0.7},
    "in a subspace": {"dim": 20, "counts": (6, 9)},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def started(seed=0, **case):
    """A model of the flow, a state a little way along it, and its W*."""
    dense = random_problem(seed=seed, **{"dim": 5, "beta": 0.0, **case})
    values = [
        torch.tensor(x, dtype=torch.float64).reshape(1, 1, 1)
        for x in (dense.lambda_w, dense.lambda_h, dense.beta)
    ]
    features = pnc.ClassStatistics.from_features(dense.reference.mT, dense.labels)
    model = FlowSetting(features, *values).krylov_space().model
    return (dense, model, *stepped(model, model.initial_state(), 0.4, 1))


def stepped(model, state, time, count):
    weight = model.weight(state)
    for _ in range(count):
        state, weight, _ = rosenbrock.rosenbrock_step(model, state, weight, time / count, 1, 0)
    return state, weight


@cases
def test_the_linear_system_is_the_one_of_the_jacobian(case):
    _, model, state, weight = started(**case)
    linear = rosenbrock._Linearised(model, state, weight, 3.0)
    both = torch.cat([state.means, state.propagator], dim=-2)

    def rate(flat, time):
        # From the definition, without Cholesky factors or what the module prepares.
        means, inner = flat.view_as(both)[0].split([len(model.priors), model.means.shape[-1]])
        psi = torch.exp(-linear.shift[0] * time) * inner
        ridge = model.lambda_w[0] / len(model.priors) * model.identity
        pull = model.priors[:, None] * means
        moment = psi @ model.within[0] @ psi.mT + means.mT @ pull + ridge
        w = pull @ torch.linalg.inv(moment)
        c, beta, shift = model.c[0], model.beta[0], linear.shift[0]
        error = torch.eye(len(model.priors), dtype=torch.float64) - means @ w.mT
        moved = error @ w - c * means + beta * model.means[0]
        turned = -w.mT @ w @ inner - (c - shift) * inner + beta * model.identity
        return torch.cat([moved, turned]).flatten()

    now = torch.tensor(0.0, dtype=torch.float64)
    jacobian, by_time = torch.autograd.functional.jacobian(rate, (both.flatten(), now))
    right = torch.randn(both.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    system = 3.0 * torch.eye(len(jacobian), dtype=torch.float64) - jacobian
    expected = torch.linalg.solve(system, right.flatten()).view_as(both)
    torch.testing.assert_close(linear.solve(right), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(linear.time_derivative().flatten(), by_time, rtol=0, atol=1e-10)
    flat_rate = linear.rate(both, weight).flatten()
    torch.testing.assert_close(flat_rate, rate(both.flatten(), now), rtol=0, atol=1e-12)


def slope(**case):
    dense, model, *_ = started(**case)
    start = model.initial_state()
    judge = pnc.central_path_flow(
        pnc.ClassStatistics.from_features(dense.reference.mT, dense.labels),
        lambda_w=dense.lambda_w,
        lambda_h=dense.lambda_h,
        beta=dense.beta,
        times=[4.0],
        method="DOP853",
        rtol=1e-13,
        atol=1e-14,
    )
    if model.means.shape[-1] < len(judge.basis):
        finest = stepped(model, start, 4.0, 64)[0]  # of the flow in the subspace
        means, inner = finest.means[0], finest.propagator[0]
    else:
        means, inner = judge.means[0], judge.propagator(0)
    errors = []
    for steps in (8, 16):
        end, _ = stepped(model, start, 4.0, steps)
        gap = (end.means[0] - means).norm() + (end.propagator[0] - inner).norm()
        errors.append(gap.item())
    return np.log2(errors[0] / errors[1])


@cases
def test_observed_order(case):
    assert 4.4 < slope(**case) < 6.2


def test_a_one_percent_mutation_breaks_the_order(monkeypatch):
    last = (*rosenbrock._C[-1][:-1], 1.01 * rosenbrock._C[-1][-1])
    monkeypatch.setattr(rosenbrock, "_C", (*rosenbrock._C[:-1], last))
    assert slope() < 4


def statistics(seed=0, dim=6):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(20)
    centres = 2 * torch.randn(4, dim, generator=generator, dtype=torch.float64)
    noise = torch.randn(80, dim, generator=generator, dtype=torch.float64)
    return pnc.ClassStatistics.from_features(noise + centres[labels], labels)


def reference(start, lambda_w, lambda_h, time):
    """Class statistics by scipy's Radau on means and Ψ, its Jacobian by differences."""
    k, d = start.means.shape
    priors, within = start.priors.numpy()[:, None], start.within.numpy()

    def rate(_, flat):
        means, psi = flat[: k * d].reshape(k, d), flat[k * d :].reshape(d, d)
        moment = psi @ within @ psi.T + means.T @ (priors * means) + lambda_w / k * np.eye(d)
        w = np.linalg.solve(moment, (priors * means).T).T
        moved = w - means @ w.T @ w - lambda_h * means
        return np.concatenate([moved.ravel(), (-w.T @ (w @ psi) - lambda_h * psi).ravel()])

    flat = np.concatenate([start.means.numpy().ravel(), np.eye(d).ravel()])
    end = solve_ivp(rate, (0, time), flat, "Radau", [time], rtol=1e-10, atol=1e-13).y[:, -1]
    means, psi = torch.from_numpy(end[: k * d].reshape(k, d)), torch.from_numpy(end[k * d :])
    psi = psi.reshape(d, d)
    return start.moved(means, psi @ start.within @ psi.mT)


def errors_of(found, expected):
    """Relative errors of ÑC1, NC1 and the means."""
    one, other = pnc.collapse_metrics(found), pnc.collapse_metrics(expected)
    return (
        abs(one.nc1_trace / other.nc1_trace - 1),
        abs(one.nc1 / other.nc1 - 1),
        ((found.means - expected.means).norm() / expected.means.norm()).item(),
    )


@pytest.mark.parametrize(
    ("lambda_w", "lambda_h", "time"),
    [
        (1e-4, 1e-4, 1e2),
        (1e-4, 1e-4, 1e4),
        pytest.param(1e-8, 1e-4, 1e4, marks=pytest.mark.slow),
        pytest.param(1e-8, 1e-4, 1e2, marks=pytest.mark.slow),
        pytest.param(1e-2, 1e-3, 1e3, marks=pytest.mark.slow),
        pytest.param(1e-6, 1e-6, 1e5, marks=pytest.mark.slow),
        pytest.param(1e-4, 0.0, 1e6, marks=pytest.mark.slow),
        pytest.param(1e-6, 1e-7, 1e6, marks=pytest.mark.slow),
        pytest.param(1e-8, 1e-8, 1e6, marks=pytest.mark.slow),
    ],
)
def test_long_times_follow_the_tolerance(lambda_w, lambda_h, time):
    start = statistics()
    expected = reference(start, lambda_w, lambda_h, time)
    for rtol in (1e-6, 1e-8):
        path = pnc.central_path_flow(
            start, lambda_w=lambda_w, lambda_h=lambda_h, times=[time], rtol=rtol
        )
        assert path.status is Status.FINISHED
        assert max(errors_of(path.statistics(0), expected)) < 10 * rtol


@pytest.mark.parametrize(
    ("lambda_h", "times"),
    [
        (1e-8, [1e2, 1e6]),
        pytest.param(1e-6, [1e2, 1e4], marks=pytest.mark.slow),
        pytest.param(1e-4, [1e2, 1e4, 1e6], marks=pytest.mark.slow),
    ],
)
def test_weakest_decay_follows_the_tolerance_to_the_end(lambda_h, times):
    """λ_W = 1e-8, two classes in three dimensions: deviations in the span fall by a thousand."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6) % 2
    centres = 2 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    start = pnc.ClassStatistics.from_features(centres[labels] + noise, labels)
    path = pnc.central_path_flow(start, lambda_w=1e-8, lambda_h=lambda_h, times=times, rtol=1e-6)
    assert path.status is Status.FINISHED
    ends = collocation.path(start, 1e-8, lambda_h, times, 100 if lambda_h == 1e-4 else 16)
    for i, (means, psi) in enumerate(ends):
        within = psi @ start.within @ psi.mT
        expected = start.moved(means, 0.5 * (within + within.mT))
        one, other = (pnc.collapse_metrics(s) for s in (path.statistics(i), expected))
        assert abs(one.nc1_trace / other.nc1_trace - 1) < 1e-5
        assert abs(one.nc1 - other.nc1) < 1e-5 * max(other.nc1, 1e-6 * other.nc1_trace)


def test_steps_grow_with_the_time():
    def steps(time):
        path = pnc.central_path_flow(statistics(), lambda_w=1e-4, lambda_h=0.0, times=[time])
        return path.cost.steps

    short, long = [steps(time) for time in (1e2, 1e4)]
    assert short < 50
    assert long < short + 40


@pytest.mark.parametrize(("lambda_w", "lambda_h"), [(1e-4, 1e-4), (0.05, 1e-3)])
def test_structure_is_kept_for_long(lambda_w, lambda_h):
    start, seen = statistics(), []
    seen.append((0.0, start))
    pnc.central_path_flow(
        start,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        times=[1e5],
        on_step=lambda *now: seen.append(now),
    )
    traces = [np.exp(2 * lambda_h * t) * s.within.trace().item() for t, s in seen]
    assert (np.diff(traces) < 1e-12 * np.array(traces[:-1])).all()
    for _, now in seen:
        assert torch.linalg.eigvalsh(now.within).min() >= -1e-13 * now.within.trace()


@pytest.mark.slow
def test_a_batch_takes_long_steps_together():
    settings = {"lambda_w": [1e-4, 1e-3], "lambda_h": [1e-4, 0.0], "beta": [0.0, 0.01]}
    together = pnc.central_path_flows(statistics(), **settings, times=[1e3])
    for i, path in enumerate(together):
        own = {name: values[i] for name, values in settings.items()}
        single = pnc.central_path_flow(statistics(), **own, times=[1e3], rtol=1e-8)
        assert max(errors_of(path.statistics(0), single.statistics(0))) < 1e-5
    assert together[0].cost.steps < 150

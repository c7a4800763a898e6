import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.tangents import gradient_tangent, point_tangent

CASES = {
    "balanced": {},
    "bias": {"bias": True},
    "imbalanced, bias, offset": {"counts": (2, 4, 3), "bias": True, "offset": 3.0},
    "no feature decay": {"lambda_h": 0.0},
    "fewer dimensions than classes": {"num_classes": 5, "dim": 3},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def draw(case):
    """A point that is not stationary, and a change of everything."""
    dense = random_problem(**{"num_classes": 3, "dim": 6, "seed": 2, **case})
    point = dense.reduced.at(torch.randn_like(dense.reduced.statistics.means))
    return point, torch.randn_like(point.weight), torch.randn(3, dtype=torch.float64)


def along(point, weight, parameters, step):
    return dataclasses.replace(
        point,
        weight=point.weight + step * weight,
        hyperparameters=point.hyperparameters + step * parameters,
    )


NAMES = ("means", "within", "objective")


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@cases
def test_against_forward_mode(case):
    point, weight, parameters = draw(case)
    zero = torch.zeros((), dtype=torch.float64)
    found = point_tangent(point, weight, parameters)
    for name in NAMES:
        expected = torch.func.jvp(
            lambda step, n=name: getattr(along(point, weight, parameters, step), n),
            (zero,),
            (zero + 1,),
        )[1]
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-11, atol=1e-12)
    still = torch.zeros_like(weight)
    expected = torch.func.jvp(
        lambda step: along(point, still, parameters, step).gradient, (zero,), (zero + 1,)
    )[1]
    torch.testing.assert_close(
        gradient_tangent(point, parameters), expected, rtol=1e-11, atol=1e-12
    )


@cases
def test_against_central_differences(case):
    point, weight, parameters = draw(case)
    found, h = point_tangent(point, weight, parameters), 1e-6
    for name in NAMES:
        up, down = (getattr(along(point, weight, parameters, s * h), name) for s in (1, -1))
        rate = (up - down) / (2 * h)
        tangent, scale = getattr(found, name), rate.abs().max().item()
        torch.testing.assert_close(tangent, rate, rtol=0, atol=1e-7 * scale)
        assert (1.01 * tangent - rate).abs().max() > 1e-3 * scale


@cases
def test_the_gradient_along_a_weight_is_the_hessian_and_along_parameters_the_mixed_part(case):
    """Symmetry of second derivatives: ⟨∂∇g[p], V⟩ is the change of the envelope's ∂f[p] along V."""
    point, weight, parameters = draw(case)
    still = torch.zeros_like(weight)
    h = 1e-5
    up, down = (
        point_tangent(along(point, weight, 0 * parameters, s * h), still, parameters).objective
        for s in (1, -1)
    )
    expected = (gradient_tangent(point, parameters) * weight).sum()
    torch.testing.assert_close(expected, (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_batches_and_directions_at_once():
    point, weight, parameters = draw({"bias": True})
    other = torch.randn_like(weight)
    both = ReducedPoint(
        point.reference,
        torch.stack([point.weight, other]),
        torch.stack([point.hyperparameters, 2 * point.hyperparameters]),
        True,
    )
    found = point_tangent(both, torch.stack([weight, -weight])[:, None], parameters[None, None])
    single = dataclasses.replace(point, weight=other, hyperparameters=2 * point.hyperparameters)
    for direction, sign in enumerate((1, -1)):
        for member, own in enumerate((point, single)):
            expected = point_tangent(own, sign * weight, parameters)
            for name in NAMES:
                value = getattr(found, name)[direction, member]
                torch.testing.assert_close(value, getattr(expected, name), rtol=1e-12, atol=1e-13)


def test_at_beta_zero_within_class_covariance_stays():
    point, weight, parameters = draw({"beta": 0.0})
    found = point_tangent(point, weight, parameters)
    assert not found.within.any()
    assert found.means.isfinite().all()
    assert gradient_tangent(point, parameters).isfinite().all()


def solved(seed):
    return pnc.minimize(random_problem(seed=seed, num_classes=3, dim=6).reduced)


def flat(response):
    """All numbers of a response, bit for bit."""
    parts = [value for name in response.weight for value in response.metrics[name].values()]
    for name in response.weight:
        parts += [*response.weight[name].flatten().tolist(), response.objective[name]]
        parts += response.within[name].flatten().tolist()
    return np.array(parts).tobytes()


@pytest.mark.parametrize(
    ("threads", "calls"),
    [(4, 12), *(pytest.param(n, 120, marks=pytest.mark.slow) for n in (2, 4))],
)
def test_derivatives_are_the_same_in_several_threads(threads, calls):
    solutions = [solved(seed) for seed in range(4)]
    grid = {"lambda_w": [0.05, 0.01], "lambda_h": [0.02, 0.1], "beta": [0.5, 3.0]}
    batch = pnc.minimize_batch(solutions[0].problem.statistics, **grid)

    def response(i):
        return flat(pnc.hyperparameter_response(solutions[i % 4]))

    def derivatives(_):
        found = batch.derivatives()
        return np.array([[v.tolist() for v in row.values()] for row in found.values()]).tobytes()

    for call in (response, derivatives):
        alone = [call(i) for i in range(4)]
        with ThreadPoolExecutor(threads) as pool:
            together = list(pool.map(call, range(calls)))
        assert together == [alone[i % 4] for i in range(calls)]


def test_a_derivative_does_not_load_the_compiler():
    code = """
import sys, torch
import perturb_nc as pnc
generator = torch.Generator().manual_seed(0)
features = torch.randn(60, 5, generator=generator)
statistics = pnc.ClassStatistics.from_features(features, torch.arange(60) % 3)
problem = pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.02, beta=1.0)
pnc.hyperparameter_response(pnc.minimize(problem))
pnc.minimize_batch(statistics, lambda_w=[0.05], lambda_h=[0.02], beta=[1.0]).derivatives()
print([m for m in sys.modules if m.startswith(("torch._dynamo", "functorch", "torch._inductor"))])
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

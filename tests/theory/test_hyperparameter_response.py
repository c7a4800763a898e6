import dataclasses

import mpmath
import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.regularization import HYPERPARAMETERS


def solve(dense, **keywords):
    return pnc.minimize(dense.reduced, tol=1e-13, **keywords)


@pytest.mark.parametrize(
    "case", [{}, {"bias": True, "counts": (3, 4, 8, 5)}], ids=["plain", "bias"]
)
@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_hyperparameter_derivatives_against_central_differences(name, case):
    dense = random_problem(seed=4, **case)
    solution = solve(dense)
    response = pnc.hyperparameter_response(solution)
    step = 1e-4 * getattr(dense, name)
    ends = []
    for sign in (1, -1):
        moved = dataclasses.replace(dense, **{name: getattr(dense, name) + sign * step})
        ends.append(solve(moved, initial_weight=solution.weight))
    up, down = ends

    def check(derivative, upper, lower):
        difference = (upper - lower) / (2 * step)
        scale = difference.abs().max().item()
        torch.testing.assert_close(derivative, difference, rtol=0, atol=1e-6 * scale)

    check(response.weight[name], up.weight, down.weight)
    check(response.means[name], up.statistics.means, down.statistics.means)
    check(response.within[name], up.statistics.within, down.statistics.within)
    rate = (up.objective - down.objective) / (2 * step)
    assert response.objective[name] == pytest.approx(rate, rel=1e-6)
    above, below = (pnc.collapse_metrics(s.statistics, s.weight).as_dict() for s in ends)
    for metric, derivative in response.metrics[name].items():
        rate = (above[metric] - below[metric]) / (2 * step)
        assert derivative == pytest.approx(rate, rel=1e-4, nan_ok=True), metric
    undefined = [m for m, value in response.metrics[name].items() if np.isnan(value)]
    assert undefined == (["nc3_alignment"] if dense.bias else [])  # W has rank K - 1 with bias


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("c0", [0.5, 0.999, 0.999999])
def test_hyperparameter_derivatives_on_a_frame_against_mpmath(c0, scale):
    """H0 = scale · H*: W = wR, M = mR, two equations in w and m, by 50 digits."""
    lambda_h, beta = 0.3, 0.7
    lambda_w = c0**2 / lambda_h
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=lambda_w, lambda_h=lambda_h)
    reference = dataclasses.replace(exact.statistics(4), means=scale * exact.means)
    settings = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    solution = pnc.minimize(pnc.NearCollapseProblem(reference, **settings), tol=1e-15)
    response = pnc.hyperparameter_response(solution)
    frame = exact.means / exact.means.norm()

    def size(rows):
        return (rows * frame).sum().item() / 3**0.5

    with mpmath.workdps(50):
        w, m = mpmath.findroot(
            lambda w, m: (
                lambda_w * w - m * (1 - w * m),
                lambda_h * m - w * (1 - w * m) + beta * (m - size(reference.means)),
            ),
            (size(solution.weight), size(solution.statistics.means)),
        )
        hessian = mpmath.matrix(
            [[m * m + lambda_w, 2 * w * m - 1], [2 * w * m - 1, w * w + lambda_h + beta]]
        )
        for name, right in {
            "lambda_w": (w, 0), "lambda_h": (0, m), "beta": (0, m - size(reference.means)),
        }.items():  # fmt: skip
            expected = -mpmath.lu_solve(hessian, mpmath.matrix(right))
            found = size(response.weight[name]), size(response.means[name])
            for value, own, of in zip(found, expected, (w, m), strict=True):
                # In units of the optimum: the derivative in beta is 0 at scale 1.
                assert value == pytest.approx(float(own), rel=1e-9, abs=1e-12 * float(of))


def test_a_metric_at_zero_has_no_derivative():
    dense = random_problem(seed=4, num_classes=2)
    response = pnc.hyperparameter_response(solve(dense))
    for derivatives in response.metrics.values():
        assert np.isnan(derivatives["nc2_equinorm"])  # two centred means have one norm
        assert np.isfinite(derivatives["nc1"])

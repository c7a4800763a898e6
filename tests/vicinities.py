"""Cases near collapse."""

import numpy as np
import pytest
from problems import near_collapse

import perturb_nc as pnc
from perturb_nc.theory.vicinity import prediction

CASES = {
    "plain": {},
    "bias": {"bias": True},
    "imbalanced": {"uneven": 1.0},
    "imbalanced, bias": {"uneven": 1.0, "bias": True},
    "two classes": {"num_classes": 2, "dim": 5},
    "two classes, bias": {"num_classes": 2, "dim": 5, "bias": True},
    "no dimension to spare": {"dim": 4},
    "no dimension to spare, bias": {"dim": 3, "bias": True},
    "strong decay": {"lambda_w": 1.4, "lambda_h": 0.3},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def solved(statistics, setting, bias):
    problem = pnc.NearCollapseProblem(statistics, **setting, bias=bias)
    return pnc.minimize(problem, tol=1e-13)


def remainders(case, steps, order=1):
    """Errors of weight, means, Σ_W (and bias) for every step."""
    rows = []
    for step in steps:
        statistics, setting, bias = near_collapse(step, **case)
        found = prediction.small_vicinity(statistics, **setting, bias=bias, order=order)
        exact = solved(statistics, setting, bias)
        errors = [
            found.weight - exact.weight,
            found.statistics.means - exact.statistics.means,
            found.statistics.within - exact.statistics.within,
        ]
        errors += [found.bias - exact.bias] if bias else []
        rows.append([error.norm().item() for error in errors])
    return np.array(rows)


def slopes(errors, steps):
    return np.diff(np.log(errors), axis=0) / np.diff(np.log(steps))[:, None]

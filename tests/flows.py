"""Flows to be judged."""

import pytest
import torch
from problems import random_problem
from scipy.integrate import solve_ivp

import perturb_nc as pnc

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

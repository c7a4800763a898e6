"""Settings solved together, and what they are solved on."""

from problems import random_problem

GRID = {
    "lambda_w": [0.05, 0.2, 0.01, 0.05, 3.0, 0.05, 1e-3],
    "lambda_h": [0.02, 0.0, 0.1, 0.02, 2.0, 0.5, 1e-3],
    "beta": [0.5, 0.5, 3.0, 0.05, 0.3, 0.0, 0.2],
}
WIDE = {"dim": 70, "counts": (30, 50, 40)}  # where the batch is solved on a subspace


def statistics(seed=0, **shape):
    return random_problem(seed=seed, **shape).reduced.statistics


def settings_of(found, i):
    return {name: float(getattr(found, name)[i]) for name in GRID}

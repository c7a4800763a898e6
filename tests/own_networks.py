"""Networks made by the theories of depth themselves."""

from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.flow.chain import chain

LAMBDA_W, NAMES = 0.25, "abcd"
FITTING = ("central_path", "chain")


def path_of(start, lambda_w=LAMBDA_W):
    times = [0.3, 0.8, 1.5]
    path = pnc.central_path_flow(start, lambda_w=lambda_w, lambda_h=0.0, times=times, rtol=1e-9)
    return dict(zip(NAMES, (start, *(path.statistics(i) for i in range(3))), strict=True))


def chain_of(start, lambda_w=LAMBDA_W):
    found = chain(start, lambda_w=lambda_w, lambda_h=0.0, betas=[3.0] * 3)
    return dict(zip(NAMES, (start, *(found.statistics(i) for i in range(3))), strict=True))


SETTING = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 2.0}


def first_layer(seed=1):
    return random_problem(seed=seed, dim=8, num_classes=3, counts=(9, 5, 7)).reduced.statistics


def anchored_chain(length, seed=1):
    """Every layer is the optimum anchored to the one before."""
    layers = {"layer.0": first_layer(seed)}
    for i in range(1, length):
        problem = pnc.NearCollapseProblem(layers[f"layer.{i - 1}"], **SETTING)
        layers[f"layer.{i}"] = pnc.minimize(problem).statistics
    return layers

"""Deep models of two classes and anchored ones, and (2) as it is written."""

import torch
from problems import random_problem

import perturb_nc as pnc

TWO = torch.arange(2).repeat_interleave(10)


def two_classes(depths, seeds, **changes):
    options = {"lambdas": 5e-3, "lambda_h": 5e-3, "num_layers": depths, "seeds": seeds, **changes}
    return pnc.deep.DeepUFM(TWO, [32] * max(depths), **options)


def optima(depths):
    found = [
        pnc.deep.deep_collapse_optimum(
            num_layers=d, num_classes=2, samples_per_class=10, lambdas=5e-3, lambda_h=5e-3
        ).objective
        for d in depths
    ]
    return torch.tensor(found, dtype=torch.float64)


PARAMETERS = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}


def anchored(num_layers, **changes):
    dense = random_problem(seed=2, **changes)
    return dense, pnc.deep.AnchoredDeepProblem(
        dense.reduced.statistics, num_layers=num_layers, **PARAMETERS
    )


def direct_objective(parameters, counts, lambdas, lambda_h, *, relu=True):
    """(2) as it is written, with columns."""
    features, weights = parameters[0].mT, parameters[1]
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    targets = torch.nn.functional.one_hot(labels).double().mT
    h = weights[0] @ features
    for weight in weights[1:]:
        h = weight @ (h.relu() if relu else h)
    value = (h - targets).square().sum() / (2 * len(labels))
    value = value + lambda_h / 2 * features.square().sum()
    return value + sum(
        decay / 2 * w.square().sum() for decay, w in zip(lambdas, weights, strict=True)
    )

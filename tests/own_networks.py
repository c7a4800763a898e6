"""Networks made by the theories of depth themselves."""

import scipy
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.flow.chain import chain

LAMBDA_W, NAMES = 0.25, "abcd"
FITTING = ("central_path", "chain", "chain_decay", "chain_placed")


def path_of(start, lambda_w=LAMBDA_W):
    times = [0.3, 0.8, 1.5]
    path = pnc.central_path_flow(start, lambda_w=lambda_w, lambda_h=0.0, times=times, rtol=1e-9)
    return dict(zip(NAMES, (start, *(path.statistics(i) for i in range(3))), strict=True))


def chain_of(start, lambda_w=LAMBDA_W, betas=(3.0,) * 3, **decay):
    found = chain(start, **{"lambda_w": lambda_w, "lambda_h": 0.0, "betas": betas, **decay})
    return dict(zip(NAMES, (start, *(found.statistics(i) for i in range(3))), strict=True))


def chain_objective(problem, betas, decay, weight, layers):
    """Of weight and all layers (N, d) of a chain, on full matrices."""
    x, n, total = problem.reference.mT, len(problem.labels), 0.0
    for before, layer, beta in zip([x, *layers], layers, betas, strict=False):
        total = total + beta / (2 * n) * (layer - before).square().sum()
    for layer in layers[:-1]:
        total = total + decay / (2 * n) * layer.square().sum()
    error = layers[-1] @ weight.mT - problem.onehot.mT
    total = total + error.square().sum() / (2 * n)
    total = total + problem.lambda_h / (2 * n) * layers[-1].square().sum()
    return total + problem.lambda_w / (2 * problem.num_classes) * weight.square().sum()


def minimised_chain(problem, betas, decay, seed=0):
    """(Weight, layers) where the sum over all layers is least: quasi-Newton on every number."""
    d, k = len(problem.reference), problem.num_classes
    shapes = [(k, d)] + [tuple(problem.reference.mT.shape)] * len(betas)
    sizes = [a * b for a, b in shapes]

    def unknowns(flat):
        parts = torch.as_tensor(flat).split(sizes)
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def value(flat):
        own = torch.tensor(flat, requires_grad=True)
        weight, *layers = unknowns(own)
        total = chain_objective(problem, betas, decay, weight, layers)
        return total.item(), torch.autograd.grad(total, own)[0].numpy()

    start = torch.randn(sum(sizes), generator=torch.Generator().manual_seed(seed)).double().numpy()
    options = {"maxiter": 50_000, "maxfun": 50_000, "ftol": 0.0, "gtol": 1e-12, "maxcor": 30}
    found = scipy.optimize.minimize(value, start, jac=True, method="L-BFGS-B", options=options)
    weight, *layers = unknowns(found.x)
    return found.fun, weight, layers


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

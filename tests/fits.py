"""Fits of known parameters."""

from functools import cache

import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study.misfit import Misfit
from perturb_nc.study.models import model_of

TRUE = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.5}
fast = pytest.mark.usefixtures("unchecked")  # many solves, types checked by the other tests


def optimum(reference, bias=False, **changed):
    problem = pnc.NearCollapseProblem(reference, **{**TRUE, **changed}, bias=bias)
    return pnc.minimize(problem, tol=1e-12).statistics


def logs(fit):
    return np.log([fit.lambda_w, fit.lambda_h, fit.beta])


def sampled(population, generator):
    """Statistics of as many Gaussian features."""
    labels = torch.repeat_interleave(torch.arange(population.num_classes), population.counts)
    noise = torch.randn(len(labels), population.dim, generator=generator, dtype=torch.float64)
    root = torch.linalg.cholesky(population.within)
    return pnc.ClassStatistics.from_features(population.means[labels] + noise @ root.mT, labels)


def misfit_of(reference, observed, **values):
    """The documented residual, from an optimum solved anew."""
    s = optimum(reference, **values)
    p = observed.priors
    means = (p @ (s.means - observed.means).square().sum(1)) / (p @ observed.means.square().sum(1))
    within = (s.within - observed.within).norm() / observed.within.norm()
    return means.sqrt().item(), within.item()


@cache
def noisy_pair():
    """A reference, and what the model predicts for it seen through noise."""
    reference = random_problem(seed=0, dim=6, counts=(2000, 2000, 2000)).reduced.statistics
    predicted = optimum(reference)
    return reference, sampled(predicted, torch.Generator().manual_seed(1))


def misfit_for(reference, observed, fixed, bias=False):
    return Misfit(model_of(reference, "squared", bias=bias), observed, fixed)

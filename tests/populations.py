"""Populations with known statistics, and samples of them."""

import torch

import perturb_nc as pnc
from perturb_nc.theory.collapse import simplex_etf

K, D, N = 10, 512, 50  # a class


def population(level, shape=0.0, seed=0, dim=D, num_classes=K):
    """Class means with tr Σ_B = 1, and the eigenvalues of Σ_W, 1/k^shape, of trace level."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    means -= means.mean(0)
    means /= (means.square().sum() / num_classes).sqrt()
    spectrum = torch.arange(1, dim + 1, dtype=torch.float64) ** -shape
    return means, spectrum * (level / spectrum.sum())


def draw(means, spectrum, n, generator):
    labels = torch.arange(len(means)).repeat(n)
    noise = torch.randn(len(labels), len(spectrum), generator=generator, dtype=torch.float64)
    return means[labels] + noise * spectrum.sqrt(), labels


def true_metrics(means, spectrum):
    counts = torch.ones(len(means), dtype=torch.int64)
    variance = spectrum.sum().repeat(len(means))
    return pnc.collapse_metrics(
        pnc.ClassStatistics(counts, means, torch.diag(spectrum), variance)
    ).as_dict()


def sample(counts=(8, 12, 5, 9), d=7, seed=0):
    """Features of classes with one covariance, and their labels."""
    torch.manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    x = torch.randn(len(labels), d).double() @ torch.randn(d, d).double()
    return x + 2 * torch.randn(len(counts), d).double()[labels], labels


def collapsed(scale=0.0, k=6, d=11):
    """Statistics with means in a simplex frame, and Σ_W of this scale."""
    within = scale * torch.cov(torch.randn(d, 50, dtype=torch.float64))
    variance = within.trace().repeat(k)
    return pnc.ClassStatistics(torch.full((k,), 5), simplex_etf(k, d), within, variance)

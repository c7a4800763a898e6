"""Models and batches of many kinds, to be measured."""

import torch
from torch import nn

from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.statistics import ClassStatistics

N, K, T, C = 24, 3, 5, 4


def labelled(*shape, n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, *shape, generator=generator), torch.arange(n) % K


def batched(x, y, size=10):
    return list(zip(x.split(size), y.split(size), strict=True))


class Calls(nn.Module):
    """One layer, `body`, behind a forward of any signature."""

    def __init__(self, function, body=None):
        super().__init__()
        self.body = body if body is not None else nn.Linear(6, 4)
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(self.body, *args, **kwargs)


class Gives(nn.Module):
    """A layer that gives what a function makes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


X, Y = labelled(6)


def model(**options):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, K)).to(**options)


def means(loader, network=None, **options):
    return collect_statistics(network or model(), loader, **options)["2"].means


def wanted(network=None):
    with torch.no_grad():
        return ClassStatistics.from_features((network or model())(X), Y).means

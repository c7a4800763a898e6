"""Small images, and networks of them, to be measured."""

import torch
from torch import nn

from perturb_nc.statistics import ClassStatistics

N, K = 60, 3


def images(n=N, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, 4, 4, generator=generator), torch.arange(n) % K


def loader(batch_size=16, n=N):
    inputs, labels = images(n)
    return list(zip(inputs.split(batch_size), labels.split(batch_size), strict=True))


def assert_close(found, wanted, rtol=1e-10):
    for field in ("counts", "means", "within", "class_variance"):
        x, y = getattr(found, field), getattr(wanted, field)
        torch.testing.assert_close(x, y, rtol=rtol, atol=rtol)


def features(x, labels=None):
    return ClassStatistics.from_features(x, images()[1] if labels is None else labels)


def hooks(model):
    return [h for m in model.modules() for h in (*m._forward_hooks, *m._forward_pre_hooks)]


class Returns(nn.Module):
    """A model whose middle layer gives whatever `make` makes of its input."""

    def __init__(self, make):
        super().__init__()
        self.first = nn.Linear(32, 5)
        self.odd = Lambda(make)

    def forward(self, x):
        h = self.first(x.flatten(1))
        self.odd(h)
        return h


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args):
        return self.function(*args)

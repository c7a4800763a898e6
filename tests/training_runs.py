"""Small clusters to train on."""

from dataclasses import replace

import torch
from torch import nn

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.training import TrainingConfig


def clusters(n=60, d=6, num_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    centres = torch.randn(num_classes, d, generator=generator)
    noise = torch.randn(n, d, generator=generator)
    return Dataset("clusters", centres[labels] + 0.3 * noise, labels, num_classes)


def fresh(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    model = MLP(6, (8, 8), 3)
    return nn.Sequential(nn.Dropout(dropout), model) if dropout else model


def assert_same_parameters(one, other):
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q), name


CONFIG = TrainingConfig(epochs=6, batch_size=16, milestones=(2, 4), weight_decay=1e-3, seed=5)


ONE_CYCLE = replace(CONFIG, schedule="one_cycle", milestones=(), learning_rate=0.2)

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.architectures import MLP, ResidualMLP
from perturb_nc.networks.convolutional import ConvNet
from perturb_nc.networks.ensemble import train_ensemble
from perturb_nc.networks.training import TrainingConfig, train

COMMON = TrainingConfig(
    epochs=3, batch_size=16, learning_rate=0.1, milestones=(1, 2), gamma=0.5, weight_decay=1e-2
)
DECAYS = ((1e-2, None, 0), (0.0, 2e-2, 0), (1e-1, 0.0, 1))  # features, last layer, seed


class Doubled(nn.Module):
    """A network in float64, for inputs in float32."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner.double()

    def forward(self, inputs):
        return self.inner(inputs.double())


def clusters(*shape):
    """60 samples: the last batch of 16 is a smaller one."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.randn(3, *shape, generator=generator)
    return Dataset(
        "clusters", centres[labels] + torch.randn(60, *shape, generator=generator), labels, 3
    )


def configs(common):
    return [
        replace(common, weight_decay=features, last_layer_weight_decay=last, seed=seed)
        for features, last, seed in DECAYS
    ]


@pytest.mark.parametrize(
    ("build", "shape", "options"),
    [
        (lambda: MLP(6, (8, 7), 3), (6,), {}),
        (
            lambda: ResidualMLP(6, 8, 2, 3, activation="tanh", bias_last=True),
            (6,),
            {"loss": "cross_entropy"},
        ),
        (
            lambda: ConvNet(1, 3, width=4, num_blocks=1, batch_norm=False),
            (1, 8, 8),
            {"schedule": "one_cycle", "milestones": ()},
        ),
    ],
)
def test_networks_are_those_trained_one_by_one(build, shape, options):
    common = replace(COMMON, **options)
    data, many = clusters(*shape), [Doubled(build()) for _ in DECAYS]
    single = copy.deepcopy(many)
    found = train_ensemble(many, data, configs(common), last_layer="inner.head")
    start = copy.deepcopy(single[0])
    for model, other, config, records in zip(many, single, configs(common), found, strict=True):
        wanted = train(other, data, config, last_layer="inner.head")
        for p, q in zip(model.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)
        assert [r.accuracy for r in records] == [r.accuracy for r in wanted]
        assert [r.learning_rate for r in records] == [r.learning_rate for r in wanted]
        assert [r.loss for r in records] == pytest.approx([r.loss for r in wanted], rel=1e-10)
        assert model.training
    # The decays do something: a network with another one ends elsewhere.
    train(start, data, replace(configs(common)[0], weight_decay=1.01e-2), last_layer="inner.head")
    weights = [model.inner.head.weight for model in (start, single[0])]
    assert (weights[0] - weights[1]).abs().max() > 1e-6


def test_frozen_parameters_stay():
    models = [MLP(6, (8, 7), 3) for _ in range(2)]
    single = copy.deepcopy(models)
    for model in (*models, *single):
        model.blocks[0].requires_grad_(False)
    train_ensemble(models, clusters(6), [COMMON, COMMON])
    for model, other in zip(models, single, strict=True):
        before = other.blocks[0].linear.weight.clone()
        train(other, clusters(6), COMMON)
        assert torch.equal(model.blocks[0].linear.weight, before)
        torch.testing.assert_close(model.head.weight, other.head.weight)


def test_what_cannot_be_trained_at_once_is_refused():
    data, models = clusters(6), [MLP(6, (8,), 3) for _ in range(2)]
    with pytest.raises(ValueError, match="one for each of at least one model, got 1 for 2"):
        train_ensemble(models, data, [COMMON])
    with pytest.raises(ValueError, match="at least one model, got 0 for 0"):
        train_ensemble([], data, [])
    with pytest.raises(ValueError, match=r"differ in seed, weight_decay, .* train it by itself"):
        train_ensemble(models, data, [COMMON, replace(COMMON, momentum=0.5)])
    with pytest.raises(ValueError, match=r"float32 .*bfloat16.* with train\(\)"):
        train_ensemble(models, data, [replace(COMMON, precision="bfloat16")] * 2)
    with pytest.raises(ValueError, match="other parameters in 1"):
        train_ensemble([models[0], MLP(6, (9,), 3)], data, [COMMON] * 2)
    normed = [MLP(6, (8,), 3, batch_norm=True)]
    with pytest.raises(ValueError, match=r"no buffers \(batch norm\).* got a MLP.* with train\(\)"):
        train_ensemble(normed, data, [COMMON])
    dropping = [nn.Sequential(nn.Dropout(0.5), MLP(6, (8,), 3))]
    with pytest.raises(ValueError, match="no dropout, got a Sequential"):
        train_ensemble(dropping, data, [COMMON], last_layer="1.head")
    with pytest.raises(ValueError, match="last_layer must name a module"):
        train_ensemble(models, data, [COMMON] * 2, last_layer="top")
    with pytest.raises(ValueError, match=r"must return outputs of shape \(16, 3\), got \(16, 4\)"):
        train_ensemble([MLP(6, (8,), 4) for _ in range(2)], data, [COMMON] * 2)
    with pytest.raises(FloatingPointError, match=r"models\[0\] became .* lower learning_rate"):
        train_ensemble(models, data, [replace(COMMON, learning_rate=1e20)] * 2)

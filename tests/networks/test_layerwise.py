import pytest
import torch
from torch import nn

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.layerwise import train_layerwise
from perturb_nc.networks.training import TrainingConfig, train

CONFIG = TrainingConfig(epochs=4, batch_size=16, weight_decay=1e-3, seed=3)


def clusters(n=60, d=6, num_classes=3):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % num_classes
    centres = torch.randn(num_classes, d, generator=generator)
    return Dataset(
        "clusters", centres[labels] + 0.3 * torch.randn(n, d, generator=generator), labels, 3
    )


def blocks(batch_norm=False):
    torch.manual_seed(0)
    return MLP(6, (8, 7, 5), 3, batch_norm=batch_norm).blocks


def test_the_first_block_is_a_network_of_one_block():
    data, chain = clusters(), blocks()
    torch.manual_seed(5)
    (head,) = train_layerwise(chain[:1], data, CONFIG)
    single = MLP(6, (8,), 3)
    single.blocks[0].load_state_dict(blocks()[0].state_dict())
    torch.manual_seed(5)
    nn.init.kaiming_uniform_(single.head.weight, a=5**0.5)  # the first draw, as for the head
    train(single, data, CONFIG)
    torch.testing.assert_close(head.weight, single.head.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(chain[0].linear.weight, single.blocks[0].linear.weight)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_each_block_is_trained_on_the_frozen_features_of_those_before(batch_norm):
    data, chain, seen = clusters(), blocks(batch_norm), []

    def check(index, stage, inputs, history):
        h = data.inputs
        for block in chain[:index]:
            h = block(h)
        torch.testing.assert_close(inputs.inputs, h)
        assert not any(p.requires_grad for p in chain[: index + 1].parameters())
        assert len(history) == 4
        assert stage(inputs.inputs).shape == (60, 3)
        seen.append((index, [p.clone() for p in chain[: index + 1].parameters()]))

    heads = train_layerwise(chain, data, CONFIG, on_layer=check)
    assert [head.weight.shape for head in heads] == [(3, 8), (3, 7), (3, 5)]
    assert [index for index, _ in seen] == [0, 1, 2]
    final = list(chain.parameters())
    for _, then in seen:  # what was trained before has not moved since
        assert all(torch.equal(p, q) for p, q in zip(then, final, strict=False))


def test_an_interrupted_run_goes_on_at_its_block(tmp_path):
    data, straight, again = clusters(), blocks(), blocks()
    torch.manual_seed(1)
    wanted = train_layerwise(straight, data, CONFIG)

    def stop(index, *_):
        if index == 1:
            raise KeyboardInterrupt

    interrupted = blocks()
    torch.manual_seed(1)
    with pytest.raises(KeyboardInterrupt):
        train_layerwise(interrupted, data, CONFIG, checkpoint_dir=tmp_path, on_layer=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["block-0.pt", "block-1.pt"]
    torch.manual_seed(1)
    found = train_layerwise(again, data, CONFIG, checkpoint_dir=tmp_path)
    for one, other in zip((*wanted, *straight), (*found, *again), strict=True):
        pairs = zip(one.parameters(), other.parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs)


def test_images_stay_images_between_blocks():
    data = clusters(d=32)
    images = Dataset("images", data.inputs.reshape(60, 2, 4, 4), data.labels, 3)
    chain = [nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 2, 3)]
    shapes = []
    heads = train_layerwise(
        chain, images, CONFIG, on_layer=lambda i, s, inputs, h: shapes.append(inputs.inputs.shape)
    )
    assert shapes == [(60, 2, 4, 4), (60, 3, 4, 4)]
    assert [head.weight.shape for head in heads] == [(3, 48), (3, 8)]


def test_blocks_must_be_given():
    with pytest.raises(ValueError, match="the number of blocks must be >= 1, got 0"):
        train_layerwise([], clusters(), CONFIG)

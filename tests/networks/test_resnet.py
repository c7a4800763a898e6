import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from perturb_nc.networks.resnet import RESNET_STAGES, ResNet


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("depth", "published"), [(18, 11_173_962), (34, 21_282_122)])
def test_resnets_have_the_published_number_of_parameters(depth, published):
    with torch.device("meta"):
        model = ResNet(3, 10, stages=RESNET_STAGES[depth], bias_last=True)
    assert count(model) == published
    # One convolution in the stem, two a block, one linear layer.
    assert 1 + 2 * len(model.blocks) + 1 == depth


def test_a_resnet_is_its_formula():
    model = ResNet(3, 5, stages=(1, 2), width=4, activation="silu").double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.weight)

    def normed(h, conv, norm, stride=1):
        h = F.conv2d(h, conv.weight, None, stride, conv.weight.shape[2] // 2)
        mean, var = norm.running_mean[:, None, None], norm.running_var[:, None, None]
        h = (h - mean) / (var + 1e-5).sqrt()
        return h * norm.weight[:, None, None] + norm.bias[:, None, None]

    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    h = F.silu(normed(x, model.stem.conv, model.stem.norm))
    for block, stride in zip(model.blocks, (1, 2, 1), strict=True):
        inner = F.silu(normed(h, *block.inner, stride))
        shortcut = normed(h, *block.shortcut, stride) if stride == 2 else h
        h = F.silu(shortcut + normed(inner, *block.outer))
        assert h.shape[2] == (8 if block is model.blocks[0] else 4)
    torch.testing.assert_close(model(x), h.mean((2, 3)) @ model.head.weight.T)


def test_residual_blocks_without_batch_norm_start_as_the_identity():
    model = ResNet(3, 5, stages=(2,), width=4, batch_norm=False)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(model(x), model.head(model.stem(x).mean((2, 3))))

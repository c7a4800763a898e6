from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from perturb_nc.networks.convolutional import VGG, VGG_STAGES, ConvNet
from perturb_nc.networks.resnet import RESNET_STAGES, ResNet


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_vgg_convolutions_have_the_published_number_of_parameters():
    # The features part of VGG-11 and VGG-13 with 3 input channels: 132,863,336 and 133,047,848 in
    # all, less 123,642,856 in the fully connected layers for 224×224 images.
    for depth, total in ((11, 132_863_336), (13, 133_047_848)):
        with torch.device("meta"):
            model = VGG(3, 10, stages=VGG_STAGES[depth])
        convolutions = [b for b in model.blocks if hasattr(b, "conv")]
        assert sum(count(b) for b in convolutions) == total - 123_642_856
        assert len(model.blocks) + 1 == depth
    with torch.device("meta"):
        model = VGG(3, 10, stages=VGG_STAGES[8], bias_last=True)
    channels = (3, 64, 128, 256, 512, 512)
    wanted = sum((9 * a + 1) * b for a, b in pairwise(channels))
    assert count(model) == wanted + 2 * (512 + 1) * 512 + (512 + 1) * 10
    assert len(model.blocks) + 1 == 8


def test_a_convnet_has_the_parameters_of_its_formula():
    model = ConvNet(3, 10, width=8, num_blocks=18)
    assert len(model.blocks) == 20
    # No biases under batch norm, which has 2 parameters a channel.
    assert count(model) == 4 * 3 * 8 + 4 * 8 * 8 + 18 * 9 * 8 * 8 + 20 * 2 * 8 + 8 * 10
    plain = ConvNet(3, 10, width=8, num_blocks=18, batch_norm=False)
    assert count(plain) == count(model) - 20 * 8


def test_a_vgg_is_its_formula():
    model = VGG(1, 4, stages=(1, 2), width=3, hidden=(6,), activation="tanh").double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    h = torch.tanh(model.blocks[0].conv(x))
    h = torch.tanh(model.blocks[1].conv(F.max_pool2d(h, 2)))
    h = torch.tanh(model.blocks[2].conv(h))
    assert h.shape == (2, 6, 4, 4)
    h = torch.tanh(model.blocks[3].linear(F.max_pool2d(h, 2).mean((2, 3))))
    torch.testing.assert_close(model(x), h @ model.head.weight.T)


def test_a_convnet_is_its_formula():
    model = ConvNet(2, 4, width=3, num_blocks=1, batch_norm=False, activation="leaky_relu").double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    h = x
    for block, (stride, padding) in zip(model.blocks, ((2, 0), (2, 0), (1, 1)), strict=True):
        h = F.conv2d(h, block.conv.weight, block.conv.bias, stride, padding)
        h = torch.where(h > 0, h, 0.01 * h)
    assert h.shape == (2, 3, 2, 2)
    torch.testing.assert_close(model(x), h.mean((2, 3)) @ model.head.weight.T)


@pytest.mark.parametrize("size", [28, 32])
@pytest.mark.parametrize(
    "build",
    [
        lambda **k: VGG(1, 10, stages=VGG_STAGES[8], width=2, hidden=(4,), **k),
        lambda **k: VGG(1, 10, stages=VGG_STAGES[13], width=2, hidden=(), **k),
        lambda **k: ResNet(1, 10, stages=RESNET_STAGES[8], width=2, **k),
        lambda **k: ConvNet(1, 10, width=2, num_blocks=2, **k),
    ],
)
def test_images_of_28_and_32_pixels_give_finite_gradients(build, size):
    for options in ({"batch_norm": True}, {"batch_norm": False}, {"bias_last": True}):
        model = build(**options)
        model(torch.randn(4, 1, size, size)).square().sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())
        assert (model.head.bias is None) == ("bias_last" not in options)


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="stages must be >= 1, got 0"):
        ResNet(3, 10, stages=(2, 0))
    with pytest.raises(ValueError, match="the number of stages must be >= 1, got 0"):
        VGG(3, 10, stages=())
    with pytest.raises(ValueError, match="hidden must be >= 1, got 0"):
        VGG(3, 10, hidden=(0,))
    with pytest.raises(ValueError, match="num_blocks must be >= 1, got 0"):
        ConvNet(3, 10, num_blocks=0)
    with pytest.raises(ValueError, match="in_channels must be >= 1, got 0"):
        ResNet(0, 10)
    with pytest.raises(ValueError, match="one of relu, leaky_relu, gelu, silu, tanh, got 'swish'"):
        ConvNet(3, 10, activation="swish")

"""Convolutional networks for small images: `blocks.0`, `blocks.1`, … and `head`.

The features that `head` reads are the mean over space of the last block. Sizes of images are free:
32×32 and 28×28 both work.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from perturb_nc.networks.architectures import activation_module
from perturb_nc.validation import at_least

VGG_STAGES = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
}
"""Convolutions per stage; the three layers that complete the count are fully connected."""


class _Blocks(nn.Module):
    """Blocks one after the other, the mean over space, a linear head."""

    blocks: nn.ModuleList
    head: nn.Linear

    def forward(self, inputs: Float[Tensor, "N C *space"]) -> Float[Tensor, "N K"]:
        """Outputs (logits), one row per sample."""
        h = inputs
        for block in self.blocks:
            h = block(h)
        return self.head(h.flatten(2).mean(2) if h.ndim > 2 else h)


class ConvNet(_Blocks):
    """Plain convolutions of one width: 2 of 2×2 with stride 2, then `num_blocks` of 3×3, padded.

    The depths and strides of the convolutional networks of Galanti et al. 2022 and Rangamani et
    al. 2023 (there 18); the head reads the mean over space.

    Args:
        in_channels: C of inputs (N, C, H, W).
        num_classes: K.
        width: channels of every block.
        num_blocks: number of 3×3 blocks.
        activation: a name in `architectures.ACTIVATIONS`.
        batch_norm: whether batch normalisation stands before each activation.
        bias_last: whether `head` has a bias; without one it is the W of the model.

    Raises:
        ValueError: a size below one, or an unknown activation.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        width: int = 128,
        num_blocks: int = 18,
        activation: str = "relu",
        batch_norm: bool = True,
        bias_last: bool = False,
    ) -> None:
        super().__init__()
        at_least(width, 1, "width")
        more = [(3, width)] * at_least(num_blocks, 1, "num_blocks")
        sizes = [(2, at_least(in_channels, 1, "in_channels")), (2, width), *more]
        self.blocks = nn.ModuleList(
            ConvBlock(channels, width, kernel, activation, batch_norm) for kernel, channels in sizes
        )
        self.head = nn.Linear(width, at_least(num_classes, 1, "num_classes"), bias=bias_last)


class VGG(_Blocks):
    """VGG (Simonyan & Zisserman 2015): stages of 3×3 convolutions, each followed by 2×2 pooling.

    Every convolution is a block, before the pooling; `hidden` fully connected blocks follow.

    Args:
        in_channels: C of inputs (N, C, H, W).
        num_classes: K.
        stages: convolutions per stage, as in `VGG_STAGES`; stage s has width·min(2^s, 8) channels.
        width: channels of the first stage.
        hidden: widths of the fully connected blocks before the head (4096, 4096 in the paper).
        activation, batch_norm, bias_last: as for `ConvNet`.
        bias_all: biases in every layer, also where batch normalisation makes them idle, as
            torchvision has them.

    Raises:
        ValueError: a size below one, no stage, or an unknown activation.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stages: Sequence[int] = VGG_STAGES[11],
        width: int = 64,
        hidden: Sequence[int] = (512, 512),
        activation: str = "relu",
        batch_norm: bool = False,
        bias_last: bool = False,
        bias_all: bool = False,
    ) -> None:
        super().__init__()
        biases = bias_all or not batch_norm
        channels, pools = at_least(in_channels, 1, "in_channels"), False
        blocks: list[nn.Module] = []
        for out, _, first in stage_sizes(stages, width, largest=8):
            pools = first and bool(blocks)  # the pooling of a stage opens the next one
            blocks.append(
                ConvBlock(channels, out, 3, activation, batch_norm, pools=pools, bias=biases)
            )
            channels = out
        for i, out in enumerate(at_least(w, 1, "hidden") for w in hidden):
            blocks.append(
                _FlatBlock(channels, out, activation, batch_norm, pools=i == 0, bias=biases)
            )
            channels = out
        self.blocks = nn.ModuleList(blocks)
        biased = bias_last or bias_all
        self.head = nn.Linear(channels, at_least(num_classes, 1, "num_classes"), bias=biased)


class ConvBlock(nn.Module):
    """Pooling if asked for, convolution, normalisation, activation."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        activation: str,
        batch_norm: bool,
        *,
        pools: bool = False,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        # 2×2 convolutions halve the image, 3×3 ones keep its size. ceil_mode: 28 → 14 → 7 → 4.
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pools else nn.Identity()
        stride, padding = (2, 0) if kernel == 2 else (1, 1)
        biased = not batch_norm if bias is None else bias
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=biased)
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.activation = activation_module(activation)

    def forward(self, h: Float[Tensor, "N C *space"]) -> Float[Tensor, "N D *space2"]:
        """Features after the activation."""
        return self.activation(self.norm(self.conv(self.pool(h))))


class _FlatBlock(nn.Module):
    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        activation: str,
        batch_norm: bool,
        *,
        pools: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        self.pools = pools
        self.linear = nn.Linear(in_dim, out_dim, bias=bias)
        self.norm = nn.BatchNorm1d(out_dim) if batch_norm else nn.Identity()
        self.activation = activation_module(activation)

    def forward(self, h: Float[Tensor, "N C *space"]) -> Float[Tensor, "N D"]:
        if self.pools:  # the last 2×2 pooling, then the mean over what is left (1×1 of 32×32)
            h = nn.functional.max_pool2d(h, 2, ceil_mode=True).mean((2, 3))
        return self.activation(self.norm(self.linear(h)))


def stage_sizes(
    stages: Sequence[int], width: int, *, largest: int | None = None
) -> list[tuple[int, int, bool]]:
    """(channels, stage, whether it is the first of its stage) of every block."""
    at_least(len(stages), 1, "the number of stages")
    at_least(width, 1, "width")
    factors = [2**s if largest is None else min(2**s, largest) for s in range(len(stages))]
    return [
        (width * factor, stage, i == 0)
        for stage, (factor, count) in enumerate(zip(factors, stages, strict=True))
        for i in range(at_least(count, 1, "stages"))
    ]

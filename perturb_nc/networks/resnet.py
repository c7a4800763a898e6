"""Residual networks for small images: `stem`, `blocks.0`, `blocks.1`, … and `head`."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from perturb_nc.networks.architectures import activation_module
from perturb_nc.networks.convolutional import ConvBlock, stage_sizes
from perturb_nc.validation import at_least

RESNET_STAGES = {8: (1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 56: (9, 9, 9)}
"""Residual blocks per stage (He et al. 2016; 18 and 34 with a 3×3 stem for small images)."""


class ResNet(nn.Module):
    """Residual network of basic blocks for small images (He et al. 2016): `stem`, `blocks`, `head`.

    Stages after the first halve the image and double the channels. With stages (2, 2, 2, 2), width
    64 and a bias in the last layer it is the ResNet-18 for CIFAR with 11,173,962 parameters.

    Args:
        in_channels: C of inputs (N, C, H, W).
        num_classes: K.
        stages: blocks per stage, as in `RESNET_STAGES`; stage s has width·2^s channels.
        width: channels of the first stage.
        activation, batch_norm, bias_last: as for `ConvNet`. Without batch norm the convolutions
            have biases and each block starts as the identity.

    Raises:
        ValueError: a size below one, no stage, or an unknown activation.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        stages: Sequence[int] = RESNET_STAGES[18],
        width: int = 64,
        activation: str = "relu",
        batch_norm: bool = True,
        bias_last: bool = False,
    ) -> None:
        super().__init__()
        at_least(in_channels, 1, "in_channels")
        blocks, channels = [], at_least(width, 1, "width")
        self.stem = ConvBlock(in_channels, width, 3, activation, batch_norm)
        for out, stage, first in stage_sizes(stages, width):
            stride = 2 if first and stage else 1
            blocks.append(_BasicBlock(channels, out, stride, activation, batch_norm))
            channels = out
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(channels, at_least(num_classes, 1, "num_classes"), bias=bias_last)

    def forward(self, inputs: Float[Tensor, "N C H W"]) -> Float[Tensor, "N K"]:
        """Outputs (logits), one row per sample."""
        h = self.stem(inputs)
        for block in self.blocks:
            h = block(h)
        return self.head(h.mean((2, 3)))


class _BasicBlock(nn.Module):
    def __init__(
        self, in_channels: int, out_channels: int, stride: int, activation: str, batch_norm: bool
    ) -> None:
        super().__init__()

        def conv(channels: int, kernel: int, stride: int) -> nn.Module:
            layer = nn.Conv2d(
                channels, out_channels, kernel, stride, kernel // 2, bias=not batch_norm
            )
            return nn.Sequential(layer, nn.BatchNorm2d(out_channels)) if batch_norm else layer

        self.inner = conv(in_channels, 3, stride)
        self.outer = conv(out_channels, 3, 1)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else conv(in_channels, 1, stride)
        self.activation = activation_module(activation)
        if not batch_norm:  # as in ResidualMLP: random blocks make the squared loss diverge
            for parameter in self.outer.parameters():
                nn.init.zeros_(parameter)

    def forward(self, h: Float[Tensor, "N C *space"]) -> Float[Tensor, "N D *space2"]:
        inner = self.activation(self.inner(h))
        return self.activation(self.shortcut(h) + self.outer(inner))

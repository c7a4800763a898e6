"""Small networks whose layers are easy to name: `blocks.0`, `blocks.1`, … and `head`."""

from collections.abc import Sequence
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from perturb_nc.validation import at_least

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


class MLP(nn.Module):
    """Multilayer perceptron; `blocks.l` gives the features after activation l, `head` the outputs.

    Args:
        in_dim: number of entries of one input; inputs (N, ...) are flattened.
        widths: dimension of the features of each block, at least one.
        num_classes: K.
        activation: a name in `ACTIVATIONS`.
        batch_norm: whether batch normalisation stands before each activation.
        bias_last: whether `head` has a bias; without one it is the W of the model.

    Raises:
        ValueError: a size below one, no widths, or an unknown activation.
    """

    def __init__(
        self,
        in_dim: int,
        widths: Sequence[int],
        num_classes: int,
        *,
        activation: str = "relu",
        batch_norm: bool = False,
        bias_last: bool = False,
    ) -> None:
        super().__init__()
        at_least(len(widths), 1, "the number of widths")
        sizes = [at_least(in_dim, 1, "in_dim"), *(at_least(w, 1, "widths") for w in widths)]
        self.blocks = nn.ModuleList(
            _DenseBlock(a, b, activation, batch_norm) for a, b in pairwise(sizes)
        )
        self.head = nn.Linear(sizes[-1], at_least(num_classes, 1, "num_classes"), bias=bias_last)

    def forward(self, inputs: Float[Tensor, "N *in"]) -> Float[Tensor, "N K"]:
        """Outputs (logits), one row per sample."""
        h = inputs.flatten(1)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


class ResidualMLP(nn.Module):
    """A linear embedding, residual blocks h + W₂ act(W₁ h) of one width, and a linear head.

    All of `embed`, `blocks.l` and the input of `head` have dimension `width`, so that one block
    moves the features a little: the setting of the near-collapse model, layer by layer. W₂ starts
    at zero.

    Args:
        in_dim: number of entries of one input; inputs (N, ...) are flattened.
        width: dimension of the features, and of the hidden layer in each block.
        num_blocks: number of residual blocks, at least one.
        num_classes: K.
        activation: a name in `ACTIVATIONS`.
        batch_norm: whether batch normalisation stands before each activation.
        bias_last: whether `head` has a bias; without one it is the W of the model.

    Raises:
        ValueError: a size below one, or an unknown activation.
    """

    def __init__(
        self,
        in_dim: int,
        width: int,
        num_blocks: int,
        num_classes: int,
        *,
        activation: str = "relu",
        batch_norm: bool = False,
        bias_last: bool = False,
    ) -> None:
        super().__init__()
        at_least(width, 1, "width")
        self.embed = nn.Linear(at_least(in_dim, 1, "in_dim"), width)
        self.blocks = nn.ModuleList(
            _ResidualBlock(width, activation, batch_norm)
            for _ in range(at_least(num_blocks, 1, "num_blocks"))
        )
        self.head = nn.Linear(width, at_least(num_classes, 1, "num_classes"), bias=bias_last)

    def forward(self, inputs: Float[Tensor, "N *in"]) -> Float[Tensor, "N K"]:
        """Outputs (logits), one row per sample."""
        h = self.embed(inputs.flatten(1))
        for block in self.blocks:
            h = block(h)
        return self.head(h)


# Blocks are modules of their own, not Sequential: a layer found by name is the whole block.
class _DenseBlock(nn.Module):
    def __init__(self, in_dim: int, out_dim: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(in_dim, out_dim)
        self.norm = nn.BatchNorm1d(out_dim) if batch_norm else nn.Identity()
        self.activation = activation_module(activation)

    def forward(self, h: Float[Tensor, "N d"]) -> Float[Tensor, "N e"]:
        return self.activation(self.norm(self.linear(h)))


class _ResidualBlock(nn.Module):
    def __init__(self, width: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm = nn.BatchNorm1d(width) if batch_norm else nn.Identity()
        self.activation = activation_module(activation)
        self.outer = nn.Linear(width, width)
        # Each block starts as the identity: without normalisation layers, random blocks make the
        # squared loss diverge at learning rates that are otherwise fine.
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, h: Float[Tensor, "N d"]) -> Float[Tensor, "N d"]:
        return h + self.outer(self.activation(self.norm(self.inner(h))))


def activation_module(name: str) -> nn.Module:
    """The activation of that name in `ACTIVATIONS`; ValueError when there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]()

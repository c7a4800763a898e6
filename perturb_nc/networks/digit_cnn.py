"""The convolutional network for MNIST of the PyPI package ccexam."""

from jaxtyping import Float
from torch import Tensor, nn


class DigitCNN(nn.Module):
    """Two 3×3 convolutions and a fully connected block for 1×28×28 images: `blocks`, `head`.

    421,642 parameters, no normalisation; 2×2 pooling before the second and the third block.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()),
                nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3136, 128), nn.ReLU()),
            ]
        )
        self.head = nn.Linear(128, 10)

    def forward(self, inputs: Float[Tensor, "N 1 28 28"]) -> Float[Tensor, "N K"]:
        """Outputs (logits)."""
        h = inputs
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def digit_cnn_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of the published file → of `DigitCNN`."""
    names = {
        "features.0": "blocks.0.0", "features.3": "blocks.1.1",
        "classifier.0": "blocks.2.2", "classifier.2": "head",
    }  # fmt: skip
    split = {name: name.rpartition(".") for name in state}
    return {
        f"{names.get(module, module)}.{parameter}": state[name]
        for name, (module, _, parameter) in split.items()
    }

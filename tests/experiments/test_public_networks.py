"""The measurement of networks that others trained, on a narrow stand-in, and what was committed."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.measure import joint_statistics
from perturb_nc.networks import ResNet
from perturb_nc.networks.public import PUBLIC_NETWORKS, public_inputs
from perturb_nc.storage import read_tensors

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from experiments import public_features, public_joints, public_networks  # noqa: E402
from experiments.public_tables import COLUMNS, table  # noqa: E402

NAME = "resnet56_cifar10"
CONFIG = public_networks.Config(piece=80, batch_size=40, unpooled=60, theory=False)


@pytest.fixture
def stand_in(monkeypatch, small_cifar10):
    """A narrow network in the place of ResNet-56, trained on 160 of 200 images."""
    torch.manual_seed(0)
    model = ResNet(3, 10, stages=(2, 1), width=4, bias_last=True).eval()
    for module in (public_features, public_networks):
        monkeypatch.setattr(module, "public_network", lambda name: model)
    monkeypatch.setitem(PUBLIC_NETWORKS, NAME, replace(PUBLIC_NETWORKS[NAME], trained_on=160))
    monkeypatch.setitem(public_networks.SAMPLED, NAME, (3, ("stem", "blocks.2")))
    return model


@pytest.mark.slow
def test_what_is_written_is_what_a_direct_measurement_gives(stand_in, tmp_path):
    record = public_networks.network(NAME, CONFIG, tmp_path)
    data = public_inputs(NAME)
    trained = [(data.inputs[:160], data.labels[:160])]
    wanted = pnc.collect_statistics(stand_in, trained, layers=["stem", "blocks.*"])
    found = pnc.load_layers(tmp_path / f"{NAME}.safetensors")
    assert list(found) == list(wanted) == list(record["layers"])
    for name, s in wanted.items():
        torch.testing.assert_close(found[name].within, s.within, rtol=1e-4, atol=1e-6)
        metrics = pnc.collapse_metrics(s)
        own = record["layers"][name]
        assert own["trained"]["nc1"] == pytest.approx(metrics.nc1, rel=1e-4)
        low, high = own["intervals"]["nc1_trace"]
        assert low < own["debiased"]["nc1_trace_debiased"] < (high or float("inf"))
    last = record["layers"]["blocks.2"]
    assert last["trained"]["nc3_duality"] is not None
    whole = pnc.collect_statistics(
        stand_in, [(data.inputs, data.labels)], layers=["blocks.2"]
    )["blocks.2"]  # fmt: skip
    nc1 = pnc.collapse_metrics(whole).nc1
    assert last["all_training_images"]["nc1"] == pytest.approx(nc1, rel=1e-4)
    right = (stand_in(data.inputs).argmax(1) == data.labels).double()
    assert record["accuracy"]["trained"] == pytest.approx(right[:160].mean().item())
    assert record["accuracy"]["held_out"] == pytest.approx(right[160:].mean().item())
    assert record["unpooled"]["images"] == 60
    # The ends of the first stage, of one width; the last block is alone.
    (pair,) = public_networks.joints(NAME, tmp_path).items()
    both = joint_statistics(stand_in, trained, [("stem", "blocks.1")])["stem", "blocks.1"]
    assert pair[0] == ("stem", "blocks.1")
    torch.testing.assert_close(pair[1].cross, both.cross, rtol=1e-4, atol=1e-6)
    assert list(record["straightness"]) == ["stem to blocks.1"]
    samples = read_tensors(tmp_path / "samples" / f"{NAME}.safetensors")[0]
    assert samples["labels"].bincount().tolist() == [3] * 10
    x = pnc.collect_features(stand_in, [(data.inputs[samples["index"]], samples["labels"])],
                             layers=["blocks.2"])[0]["blocks.2"]  # fmt: skip
    torch.testing.assert_close(samples["blocks.2"].float(), x, rtol=2e-3, atol=1e-4)


def test_recoloured_covariances_keep_canonical_correlations():
    """Of 400 samples, for the Σ_W of all 4,000: their joint covariance is one that samples have."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(4_000) % 10
    x = torch.randn(4_000, 7, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(7, 5, generator=generator, dtype=torch.float64)
    y += torch.randn(4_000, 5, generator=generator, dtype=torch.float64)

    def both(rows):
        layers = [pnc.ClassStatistics.from_features(f[rows], labels[rows], 10) for f in (x, y)]
        of_class = [f[rows] - s.means[labels[rows]] for f, s in zip((x, y), layers, strict=True)]
        return pnc.measure.JointStatistics(*layers, of_class[0].mT @ of_class[1] / len(x[rows]))

    few, whole = both(slice(400)), both(slice(None))
    cross = public_joints.recoloured(few, whole.first, whole.last)
    assert torch.equal(public_joints.recoloured(whole, whole.first, whole.last), whole.cross)

    def correlations(first, last, cross):
        roots = [torch.linalg.cholesky(s.within) for s in (first, last)]
        turned = torch.linalg.solve_triangular(roots[0], cross, upper=False)
        turned = torch.linalg.solve_triangular(roots[1], turned.mT, upper=False)
        return torch.linalg.svdvals(turned)

    found = correlations(whole.first, whole.last, cross)
    wanted = correlations(few.first, few.last, few.cross)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=0)
    assert (cross - whole.cross).norm() < (few.cross - whole.cross).norm()


def test_an_interrupted_measurement_goes_on(stand_in, tmp_path, monkeypatch):
    sizes = {"images": None, "piece": 80, "batch_size": 40}
    whole = public_features.features(NAME, "train", tmp_path, **sizes)
    assert len(whole.files) == 3
    kept = {path: path.stat().st_mtime_ns for path in whole.files}
    whole.files[1].unlink()
    again = public_features.features(NAME, "train", tmp_path, **sizes)
    changed = [path for path in again.files if path.stat().st_mtime_ns != kept[path]]
    assert changed == [whole.files[1]]
    assert again.read("labels").tolist() == public_inputs(NAME).labels.tolist()
    assert again.read("blocks.2").shape == (200, 8)


def test_the_statistics_of_resnet56_are_those_that_were_measured_elsewhere():
    """Of 5,000 of the 45,000 images, by other code: the two differ by what a sample does."""
    layers = pnc.load_layers(public_networks.FOLDER / f"{NAME}.safetensors")
    assert len(layers) == 28
    assert all(s.num_samples == 45_000 for s in layers.values())
    nc1 = (5.22, 3.93, 3.06, 2.46, 1.81, 1.14, 0.78, 0.53, 0.20)
    nc1_trace = (2.94, 3.08, 3.31, 3.23, 2.95, 2.53, 2.11, 1.59, 0.30)
    for i, (one, other) in enumerate(zip(nc1, nc1_trace, strict=True), start=18):
        found = pnc.collapse_metrics(layers[f"blocks.{i}"])
        assert found.nc1 == pytest.approx(one, rel=0.03)
        assert found.nc1_trace == pytest.approx(other, rel=0.03)
    joints = public_networks.joints(NAME)
    assert list(joints) == [("blocks.18", "blocks.26"), ("blocks.9", "blocks.17"),
                            ("stem", "blocks.8")]  # fmt: skip
    for (first, last), both in joints.items():
        assert torch.equal(both.first.means, layers[first].means)
        assert torch.equal(both.last.within, layers[last].within)


@pytest.mark.parametrize("name", public_networks.NETWORKS)
def test_the_committed_statistics_have_the_committed_metrics(name):
    path = public_networks.FOLDER / f"{name}.json"
    record = json.loads(path.read_text(encoding="utf8"))
    for layer, s in public_networks.blocks_of(name).items():
        assert s.num_samples == record["images"]["trained"]
        found, wanted = pnc.collapse_metrics(s), record["layers"][layer]["trained"]
        for metric in ("nc1_trace", "nc2_etf", "cdnv"):
            assert getattr(found, metric) == pytest.approx(wanted[metric], rel=1e-3), layer
    known = PUBLIC_NETWORKS[name].test_accuracy
    assert record["accuracy"]["test"] == pytest.approx(known, abs=0.005)


@pytest.mark.parametrize("name", ["resnet56_cifar10", "resnet18_cifar10", "vgg16_cifar10"])
def test_the_documentation_says_what_was_measured(name):
    record = json.loads((public_networks.FOLDER / f"{name}.json").read_text(encoding="utf8"))
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf8")
    for line in list(table(record, COLUMNS.get(name)))[2:]:
        assert line in text

"""The experiments, run at sizes of seconds, and what they committed."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc import collect_statistics
from perturb_nc.networks import Dataset, ResNet

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from experiments import (  # noqa: E402
    depthwise_layerwise,
    effective_depth,
    every_layer,
    feature_learning,
    intermediate_collapse,
    public_resnet,
    resume,
    running,
    weight_decay,
    weight_decay_paired,
)


def quick(module, monkeypatch, output):
    monkeypatch.setattr(sys, "argv", [module.__name__, "--quick", "--output", str(output)])
    module.main()
    result = json.loads((output / "result.json").read_text(encoding="utf8"))
    assert result["manifest"]["config"]
    left = {path.suffix for path in (output / "runs").iterdir()}
    assert left == {".json"}  # checkpoints are gone with the end of their run
    return result


def test_layerwise_training_lowers_the_trace_ratio_with_every_layer(monkeypatch, tmp_path):
    result = quick(depthwise_layerwise, monkeypatch, tmp_path)
    (run,) = result["runs"]
    values = [run["inputs"]["nc1_trace"], *(layer["nc1_trace"] for layer in run["layers"])]
    assert len(values) == 4
    assert values == sorted(values, reverse=True)
    # A finished run is read, not made again.
    path = tmp_path / "runs" / "digits-seed0.json"
    (tmp_path / "result.json").unlink()
    before = path.stat().st_mtime_ns
    assert quick(depthwise_layerwise, monkeypatch, tmp_path)["runs"] == [run]
    assert path.stat().st_mtime_ns == before
    # One that was changed is refused by name.
    (tmp_path / "result.json").unlink()
    path.write_text(path.read_text(encoding="utf8").replace('"seed": 0', '"seed": 7'), "utf8")
    with pytest.raises(ValueError, match=r"digits-seed0.json is not as it was written; delete it"):
        quick(depthwise_layerwise, monkeypatch, tmp_path)


def test_runs_of_another_configuration_are_not_taken_over(tmp_path):
    config = effective_depth.Config()
    assert resume.runs_folder(tmp_path, config) == resume.runs_folder(tmp_path, config)
    with pytest.raises(ValueError, match=r"runs was made with other .*depths.*; delete it"):
        resume.runs_folder(tmp_path, effective_depth.full())


def test_effective_depth_is_the_first_layer_below_the_error(monkeypatch, tmp_path):
    result = quick(effective_depth, monkeypatch, tmp_path)
    assert [row["depth"] for row in result["table"]] == [2, 4]
    for row, run in zip(result["table"], result["runs"], strict=True):
        scores = [s["accuracy"] for s in run["nearest_mean"]["train"].values()]
        assert len(scores) == row["depth"]
        for epsilon, layer in row["effective_depth"].items():
            good = [i + 1 for i, score in enumerate(scores) if 1 - score <= float(epsilon)]
            assert layer == (good[0] if good else None)
        assert row["effective_depth"]["0.1"] == 1


def test_every_layer_is_measured_at_every_epoch(monkeypatch, tmp_path):
    result = quick(intermediate_collapse, monkeypatch, tmp_path)
    for run, summary in zip(result["runs"], result["summaries"], strict=True):
        assert [epoch["epoch"] for epoch in run["epochs"]] == [1, 2]
        assert all(len(epoch["layers"]) == 6 for epoch in run["epochs"])
        assert run["epochs"][1]["share"] > 0
        assert summary["nc1_trace"] == [layer["nc1_trace"] for layer in run["final"].values()]
        assert summary["collapse_depth"] is None or 1 <= summary["collapse_depth"] <= 6


def test_feature_learning_reads_weights_against_means(monkeypatch, tmp_path):
    result = quick(feature_learning, monkeypatch, tmp_path)
    (run,) = result["layers"]
    assert len(run["weights"]) == 3
    for row in run["weights"]:
        assert 0 < row["alignment"] <= 1
        assert row["memory_cosine"] <= row["memory_cosine_in_span"] <= 1
        assert row["singular_values"][0] == 1
    for name, traces in run["traces"].items():
        ratio = traces["within"] / traces["between"]
        assert run["final"][name]["nc1_trace"] == pytest.approx(ratio)
    layers = pnc.load_layers(tmp_path / "layers-mlp-digits-seed0.safetensors")
    found = pnc.collapse_metrics(layers["blocks.3"]).nc1
    assert found == pytest.approx(run["final"]["blocks.3"]["nc1"], rel=1e-4)
    (before,) = result["untrained"]
    for one, other in zip(run["weights"], before["weights"], strict=True):
        assert one["alignment"] > other["alignment"]  # learning aligns weights with means
    assert [row["trained_layers"] for row in result["fixed"]] == [1, 3]
    assert min(row["train_accuracy"] for row in result["fixed"]) > 0.5


def test_fixed_layers_are_chains_of_frames_and_stay():
    config = feature_learning.Config(depth=3, width=12)
    data = running.data_for("digits", 100)
    model = feature_learning.mlp(config, data)
    feature_learning.fix_top(model, 1, seed=0)
    gram = model.head.weight @ model.head.weight.T * 12
    wanted = (torch.eye(10) - 0.1) * 10 / 9  # unit columns with cosines -1/9
    torch.testing.assert_close(gram, wanted, atol=1e-5, rtol=0)
    # The chain takes the frame before block 1 to a multiple of the frame before the head.
    product = model.head.weight @ model.blocks[2].linear.weight @ model.blocks[1].linear.weight
    assert torch.linalg.matrix_rank(product, rtol=1e-4) == 9
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(name.startswith("blocks.0.") for name in trainable)
    before = model.blocks[2].linear.weight.clone()
    feature_learning.train(model, data, feature_learning.TrainingConfig(epochs=1))
    assert torch.equal(model.blocks[2].linear.weight, before)


def test_weight_decays_are_those_of_the_parts(monkeypatch, tmp_path, small_cifar10):
    seen = []

    def spy(model, data, config, files, **measured):
        seen.append((config.weight_decay, config.last_layer_weight_decay, config.loss))
        return running.trained(model, data, config, files, **measured)

    monkeypatch.setattr(weight_decay, "trained", spy)
    result = quick(weight_decay, monkeypatch, tmp_path / "out")
    assert seen == [(5e-4, 5e-4, "mse"), (0.0, 5e-4, "mse")]
    assert [run["decay"] for run in result["runs"]] == ["baseline", "features 0"]
    (effect,) = weight_decay.effects(result["runs"], "nc1").values()
    values = [run["final"]["blocks.2"]["nc1"] for run in result["runs"]]
    assert effect["mean"] == pytest.approx(np.log(values[1] / values[0]))
    assert np.isnan(effect["error"])  # one seed
    assert weight_decay.full().stages == (2, 2, 2, 2)


def test_effects_of_weight_decays_are_paired_by_seed(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["weight_decay_paired", "--quick", "--output", str(tmp_path)])
    weight_decay_paired.main()
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf8"))
    assert [row["loss"] for row in result["summaries"]] == ["mse", "cross_entropy"]
    runs = [run for run in result["runs"] if run["loss"] == "mse"]
    assert [run["seed"] for run in runs[::5]] == [0, 1, 2]  # at once: two, then one
    value = np.array([run["final"]["blocks.0"]["nc1"] for run in runs]).reshape(3, 5)
    ratios = np.log(value[:, 1:] / value[:, :1])
    found = list(result["summaries"][0]["effects"]["nc1"].values())
    assert [f["mean"] for f in found] == pytest.approx(list(ratios.mean(0)))
    assert [f["error"] for f in found] == pytest.approx(list(ratios.std(0, ddof=1) / 3**0.5))
    # Columns: last layer x2, last layer 0, features x2, features 0.
    gaps = abs(ratios[:, 2:]) - abs(ratios[:, :2])
    contrast = list(result["summaries"][0]["contrast"]["nc1"].values())
    assert [c["mean"] for c in contrast] == pytest.approx(list(gaps.mean(0)))
    # The networks of a seed differ by their weight decays only, which four epochs barely show.
    assert abs(ratios).max() < 0.2 < np.log(value[:, 0].max() / value[:, 0].min())


def test_every_layer_ships_the_statistics_of_every_network(monkeypatch, tmp_path):
    result = quick(every_layer, monkeypatch, tmp_path)
    assert [run["kind"] for run in result["runs"]] == ["mlp", "residual_mlp"]
    for run in result["runs"]:
        layers = pnc.load_layers(tmp_path / f"{run['kind']}-digits-seed0.safetensors")
        assert list(layers) == list(run["final"])
        for name, statistics in layers.items():
            assert statistics.num_samples == run["samples"] == 1437
            found = pnc.collapse_metrics(statistics).nc1
            assert found == pytest.approx(run["final"][name]["nc1"], rel=1e-3)
    images = Dataset("images", torch.zeros(2, 3, 32, 32), torch.arange(2), 10)
    for network in every_layer.Config().networks + every_layer.full().networks:
        with torch.device("meta"):
            model = network.build(images)
        blocks = {"mlp": 10, "residual_mlp": 5, "convnet": 2 + network.depth, "resnet18": 8}
        assert len(model.blocks) == blocks[network.kind]


def test_an_interrupted_measurement_of_the_public_network_goes_on(
    monkeypatch, tmp_path, small_cifar10
):
    # A narrow stand-in: the measurement does not depend on the width.
    model = ResNet(3, 10, width=4, bias_last=True).eval()
    monkeypatch.setattr(public_resnet, "public_network", lambda name: model)
    config = public_resnet.Config(num_samples=60, piece=20, batch_size=10)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    public_resnet.run(config, whole)
    parts = public_resnet.pieces(config, cut / "pieces")
    next(parts)  # one piece, then a kill
    files = list((cut / "pieces").iterdir())
    assert [path.name for path in files] == ["piece-0.safetensors"]
    public_resnet.run(config, cut)
    assert not (cut / "pieces").exists()
    one, other = (pnc.load_layers(folder / "layers.safetensors") for folder in (whole, cut))
    assert list(one) == ["stem", *(f"blocks.{i}" for i in range(8)), "head"]
    assert all(torch.equal(one[name].within, other[name].within) for name in one)
    assert one["stem"].num_samples == 60
    public_resnet.unpooled(replace(config, unpooled=50), whole)
    record = json.loads((whole / "unpooled.json").read_text(encoding="utf8"))
    data = public_resnet.public_inputs("resnet18_cifar10")
    wide = collect_statistics(
        model, [(data.inputs[:50], data.labels[:50])], layers=["blocks.2"], reduce="flatten"
    )
    wanted = pnc.collapse_metrics(wide["blocks.2"])
    assert wide["blocks.2"].dim == 8 * 16 * 16
    assert record["layers"]["blocks.2"]["nc1"] == pytest.approx(wanted.nc1, rel=1e-3)
    direct = collect_statistics(model, [(data.inputs[:60], data.labels[:60])], reduce="pool")
    for found, wanted in ((one["stem"], direct["stem"]), (one["blocks.7"], direct["blocks.7"])):
        torch.testing.assert_close(found.means, wanted.means, rtol=1e-4, atol=1e-6)


def test_the_committed_statistics_of_the_public_network_have_the_committed_metrics():
    folder = ROOT / "experiments" / "results" / "public_resnet"
    layers = pnc.load_layers(folder / "layers.safetensors")
    record = json.loads((folder / "metrics.json").read_text(encoding="utf8"))
    assert record["train_accuracy"] == 49_992 / 50_000
    assert (folder / "layers.safetensors").stat().st_size < 6e6
    for name, statistics in layers.items():
        assert statistics.counts.tolist() == [5000] * 10
        found = pnc.collapse_metrics(statistics)
        for metric in ("nc1", "nc1_trace", "nc2_etf", "cdnv"):
            wanted = record["layers"][name][metric]
            assert getattr(found, metric) == pytest.approx(wanted, rel=1e-3), (name, metric)
    assert record["layers"]["blocks.7"]["nc1_trace"] == pytest.approx(0.330, abs=1e-3)


def test_the_committed_statistics_of_every_layer_have_the_committed_metrics():
    folder = ROOT / "experiments" / "results" / "every_layer"
    runs = json.loads((folder / "result.json").read_text(encoding="utf8"))["runs"]
    assert {(run["data"], run["samples"]) for run in runs} == {
        ("cifar10", 50_000),
        ("fashion_mnist", 60_000),
    }
    for run in runs:
        name = f"{run['kind']}-{run['data']}-seed0"
        layers = pnc.load_layers(folder / f"{name}.safetensors")
        assert list(layers) == list(run["final"])
        last, statistics = list(layers.items())[-1]
        assert statistics.num_samples == run["samples"]
        found = pnc.collapse_metrics(statistics)
        for metric in ("nc1", "nc1_trace", "nc2_etf"):
            wanted = run["final"][last][metric]
            assert getattr(found, metric) == pytest.approx(wanted, rel=1e-3), (name, metric)


def test_the_committed_effects_are_those_of_the_committed_runs():
    path = ROOT / "experiments" / "results" / "weight_decay_paired" / "result.json"
    result = json.loads(path.read_text(encoding="utf8"))
    for row in result["summaries"]:
        name = f"{row['data']}-{row['loss']}-{row['epochs']}"
        runs = [run for run in result["runs"] if run["setting"] == name]
        assert len(runs) == 5 * row["seeds"]
        assert row["effects"]["nc1"] == weight_decay.effects(runs, "nc1")
    effects = result["summaries"][0]["effects"]["nc1_trace"]  # digits, squared loss
    assert effects["features x2"]["mean"] == pytest.approx(-0.385, abs=1e-3)
    assert effects["last layer x2"]["mean"] == pytest.approx(-0.052, abs=1e-3)

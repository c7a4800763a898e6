import json
import sys

import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc import cli, demo
from perturb_nc.networks import TrainingConfig


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command as the console script does; returns (exit code, stdout, stderr)."""

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
def features(tmp_path):
    labels = np.arange(60) % 3
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 5)) + 2 * np.eye(3, 5)[labels]
    np.savez(tmp_path / "x.npz", features=x, labels=labels)
    return tmp_path / "x.npz"


@pytest.fixture
def layer(features, run):
    code, out, _ = run("stats", features, "-o", features.with_name("layer.safetensors"))
    assert code == 0
    assert "K = 3 classes, d = 5, N = 60" in out
    return features.with_name("layer.safetensors")


def test_stats_is_from_features(features, layer):
    arrays = np.load(features)
    expected = pnc.ClassStatistics.from_features(arrays["features"], arrays["labels"])
    assert pnc.ClassStatistics.load(layer).within.equal(expected.within)


def test_stats_takes_labels_from_another_file_and_other_names(tmp_path, features, run):
    arrays = np.load(features)
    np.save(tmp_path / "x.npy", arrays["features"])
    torch.save(torch.from_numpy(arrays["labels"]), tmp_path / "y.pt")
    out = tmp_path / "a.safetensors"
    assert run("stats", tmp_path / "x.npy", "-o", out, "--labels", tmp_path / "y.pt")[0] == 0
    assert pnc.ClassStatistics.load(out).num_samples == 60
    code, _, err = run("stats", features, "-o", out, "--labels-key", "targets")
    assert code == 2
    assert "holds arrays ['features', 'labels'], none named 'targets'" in err


def test_metrics_prints_every_metric(layer, run, tmp_path):
    expected = pnc.collapse_metrics(pnc.ClassStatistics.load(layer)).as_dict()
    code, out, _ = run("metrics", layer)
    assert code == 0
    for name, value in expected.items():
        assert any(line.split()[:1] == [name] for line in out.splitlines()), name
        assert (f"{value:.3g}" if value == value else "–") in out
    code, out, _ = run("metrics", layer, "--json")
    record = json.loads(out)["layer"]
    assert record["nc1"] == expected["nc1"]
    assert record["nc3_duality"] is None
    np.save(tmp_path / "w.npy", np.ones((3, 5)))
    code, out, _ = run("metrics", layer, "--weight", tmp_path / "w.npy", "--json")
    assert json.loads(out)["layer"]["nc3_duality"] > 0


def test_predict_is_minimize(layer, run, tmp_path):
    options = ("--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5)
    problem = pnc.NearCollapseProblem(
        pnc.ClassStatistics.load(layer), lambda_w=0.4, lambda_h=0.1, beta=0.5
    )
    solution = pnc.minimize(problem)
    code, out, _ = run("predict", layer, *options, "--json", "-o", tmp_path / "p.safetensors")
    assert code == 0
    record = json.loads(out)["layer"]
    assert record["objective"] == solution.objective
    assert record["spectral_ratio"] == solution.certificate.spectral_ratio
    assert record["is_global"] is solution.certificate.is_global
    predicted = pnc.load_layers(tmp_path / "p.safetensors")["layer"]
    torch.testing.assert_close(predicted.means, solution.statistics.means)
    code, out, _ = run("predict", layer, *options)
    assert code == 0
    row = next(line for line in out.splitlines() if "predicted" in line).split()
    assert f"{solution.certificate.spectral_ratio:.3g}" in row
    assert ("global" in row) == solution.certificate.is_global


def test_spectrum(run):
    options = ("--num-classes", 4, "--dim", 10, "--samples-per-class", 10)
    options += ("--lambda-w", 2**0.5, "--lambda-h", 0.1, "--beta", 100)
    code, out, _ = run("spectrum", *options, "--json")
    assert code == 0
    record = json.loads(out)
    assert sum(record["multiplicities"]) == 400
    assert min(record["block_values"]) == pytest.approx(100 / (100 + (0.1 / 2**0.5) ** 0.5))
    code, out, _ = run("spectrum", *options)
    assert f"{min(record['block_values']):.6f}" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("metrics", "absent.safetensors"), "no file at absent.safetensors; check the path"),
        (("predict", "LAYER", "--lambda-w", "-1"), "lambda_w must be > 0, got -1.0"),
        (("predict", "LAYER", "--lambda-w", "nan"), "lambda_w must be finite, got nan"),
        (("predict", "LAYER", "--beta", "-1"), "beta must be >= 0, got -1.0"),
        (("predict", "LAYER", "--lambda-h", "x"), "Invalid value for '--lambda-h'"),
        (("predict",), "Missing argument"),
        (("stats", "FEATURES"), "Missing option '--output'"),
        (("stats", "BAD", "-o", "out.safetensors"), "features must be finite, got nan at [3, 1]"),
        (("metrics", "FEATURES"), "is not a readable safetensors file"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(arguments, message, layer, features, run, tmp_path):
    x = np.load(features)["features"].copy()
    x[3, 1] = np.nan
    np.savez(tmp_path / "bad.npz", features=x, labels=np.arange(60) % 3)
    files = {"LAYER": layer, "FEATURES": features, "BAD": tmp_path / "bad.npz"}
    defaults = {"--lambda-w": 0.1, "--lambda-h": 0.1, "--beta": 1}
    arguments = [files.get(a, a) for a in arguments]
    if arguments[0] == "predict" and len(arguments) > 1:
        for option, value in defaults.items():
            if option not in arguments:
                arguments += [option, value]
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("perturb-nc: ")
    assert len(err.splitlines()) == 1
    assert message in err


def test_demo_writes_what_it_names_and_resumes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BLOCKS", 2)
    monkeypatch.setattr(demo, "TRAINING", TrainingConfig(epochs=4, weight_decay=5e-3))
    code, out, _ = run("demo", "-o", tmp_path)
    assert code == 0
    for name in ("statistics.safetensors", "predictions.json", "layers.png"):
        assert f"wrote {tmp_path / name}" in out
        assert (tmp_path / name).stat().st_size > 1000
    record = json.loads((tmp_path / "predictions.json").read_text())
    assert record["hyperparameters"]["lambda_w"] == pytest.approx(0.05)
    assert list(record["layers"]) == ["embed", "blocks.0", "blocks.1"]
    measured = pnc.load_layers(tmp_path / "statistics.safetensors")["blocks.1"]
    expected = pnc.collapse_metrics(measured).nc1
    assert record["layers"]["blocks.1"]["measured"]["nc1"] == expected
    assert record["layers"]["blocks.1"]["measured"]["nc3_duality"] > 0
    assert out.count("predicted") == 3
    before = (tmp_path / "predictions.json").read_text()
    assert run("demo", "-o", tmp_path, "--json")[0] == 0  # from the checkpoint
    assert (tmp_path / "predictions.json").read_text() == before

import json
from dataclasses import replace

import near_cross_entropy
import numpy as np
import torch
from problems import near_collapse

import perturb_nc as pnc
from perturb_nc.layer_files import load_samples
from perturb_nc.study import predict
from perturb_nc.theory.cross_entropy.vicinity import cross_entropy_vicinity


def test_stats_is_from_features(features, layer):
    arrays = np.load(features)
    expected = pnc.ClassStatistics.from_features(arrays["features"], arrays["labels"])
    assert pnc.load_layers(layer)[""].within.equal(expected.within)


def test_stats_takes_labels_from_another_file_and_other_names(tmp_path, features, run):
    arrays = np.load(features)
    np.save(tmp_path / "x.npy", arrays["features"])
    torch.save(torch.from_numpy(arrays["labels"]), tmp_path / "y.pt")
    out = tmp_path / "a.safetensors"
    assert run("stats", tmp_path / "x.npy", "-o", out, "--labels", tmp_path / "y.pt")[0] == 0
    assert pnc.load_layers(out)[""].num_samples == 60
    code, _, err = run("stats", features, "-o", out, "--labels-key", "targets")
    assert code == 2
    assert "holds arrays ['features', 'labels'], none named 'targets'" in err


def test_metrics_prints_every_metric(layer, run, tmp_path):
    expected = pnc.collapse_metrics(pnc.load_layers(layer)[""]).as_dict()
    code, out, _ = run("metrics", layer)
    assert code == 0
    assert "layer: few samples for their spread (n >= 20 a class, d = 5)" in out
    for name, value in expected.items():
        assert any(line.split()[:1] == [name] for line in out.splitlines()), name
        assert (f"{value:.3g}" if value == value else "–") in out
    code, out, _ = run("metrics", layer, "--json")
    record = json.loads(out)["layer"]
    assert record["nc1"] == expected["nc1"]
    assert record["nc1_trace_debiased"] > expected["nc1_trace"]
    assert record["nc3_duality"] is None
    np.save(tmp_path / "w.npy", np.ones((3, 5)))
    code, out, _ = run("metrics", layer, "--weight", tmp_path / "w.npy", "--json")
    assert json.loads(out)["layer"]["nc3_duality"] > 0


def test_predict_is_minimize(layer, run, tmp_path):
    options = ("--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5)
    problem = pnc.NearCollapseProblem(
        pnc.load_layers(layer)[""], lambda_w=0.4, lambda_h=0.1, beta=0.5
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


def test_predict_near_collapse_is_small_vicinity(run, tmp_path):
    near, setting, _ = near_collapse(1e-3)
    far, *_ = near_collapse(0.6)
    file, output = tmp_path / "two.safetensors", tmp_path / "p.safetensors"
    pnc.save_layers({"near": near, "far": far}, file)
    options = [part for name, v in setting.items() for part in (f"--{name.replace('_', '-')}", v)]
    options += ["--method", "vicinity"]
    code, out, _ = run("predict", file, *options, "--json", "-o", output)
    assert code == 0
    records = json.loads(out)
    expected = pnc.small_vicinity(near, **setting)
    assert records["near"]["remainder"] == expected.remainder
    assert [records[name]["is_small"] for name in ("near", "far")] == [True, False]
    predicted = pnc.load_layers(output)["near"]
    torch.testing.assert_close(predicted.means, expected.statistics.means)
    code, out, _ = run("predict", file, *options)
    assert code == 0
    rows = [line.split()[-1] for line in out.splitlines() if "predicted" in line]
    assert rows == ["yes", "NOT_SMALL"]
    assert "too far from collapse" in out
    code, _, err = run("predict", file, *options[:-1], "nearly")
    assert (code, "'nearly' is not one of 'exact', 'vicinity'" in err) == (2, True)
    code, _, err = run("predict", file, *options, "--loss", "cross-entropy")
    assert (code, "keeps no samples" in err or "holds no samples" in err) == (2, True)


def test_predict_near_collapse_with_cross_entropy_is_its_closed_form(run, tmp_path):
    problem = near_cross_entropy.near_collapse(1e-3)
    file = tmp_path / "features.npz"
    np.savez(file, layer=problem.features.numpy(), labels=problem.labels.numpy())
    setting = near_cross_entropy.SETTING
    options = [part for name, v in setting.items() for part in (f"--{name.replace('_', '-')}", v)]
    options += ["--method", "vicinity", "--loss", "cross-entropy", "--bias"]
    code, out, _ = run("predict", file, *options, "--json")
    assert code == 0
    record = json.loads(out)["layer"]
    assert record["remainder"] == cross_entropy_vicinity(problem).remainder
    assert record["is_small"]


def test_predict_with_cross_entropy_is_minimize(run, tmp_path):
    features, labels = torch.randn(30, 6, dtype=torch.float64), torch.arange(30) % 3
    file = tmp_path / "features.npz"
    np.savez(file, first=features.numpy(), second=2 * features.numpy(), labels=labels.numpy())
    strengths = {"lambda_w": 0.4, "lambda_h": 0.1, "beta": 0.5}
    options = ("--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5, "--loss", "cross-entropy")
    solution = pnc.minimize(pnc.CrossEntropyProblem(2 * features, labels, **strengths))
    out_file = tmp_path / "p.safetensors"
    code, out, _ = run("predict", file, *options, "--bias", "--json", "-o", out_file)
    assert code == 0
    record = json.loads(out)["second"]
    assert record["objective"] == solution.objective
    assert record["is_global"] is solution.certificate.is_global
    predicted = pnc.load_layers(out_file)["second"]
    torch.testing.assert_close(predicted.within, solution.statistics.within)
    code, out, _ = run("predict", file, *options)
    assert code == 0
    assert "first" in out
    code, _, err = run("predict", file, *options, "--labels-key", "y")
    assert code == 2
    assert "must hold the features of layers and their labels, as 'y'" in err
    code, _, err = run("predict", file, *options[:-1], "hinge")
    assert code == 2
    assert "loss must be one of squared, cross-entropy, got 'hinge'" in err


def test_a_gap_that_is_undefined_is_a_dash(layer, run, monkeypatch):
    predict_layers = predict.predict_layers

    def without_a_gap(*args, **kwargs):
        (name, p), *_ = predict_layers(*args, **kwargs).items()
        certificate = replace(p.solution.certificate, gap=float("nan"), is_global=False)
        return {name: replace(p, solution=replace(p.solution, certificate=certificate))}

    monkeypatch.setattr(predict, "predict_layers", without_a_gap)
    code, out, _ = run("predict", layer, "--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5)
    assert code == 0
    assert "nan" not in out
    row = next(line for line in out.splitlines() if "predicted" in line).split()
    assert row[-2:] == ["–", "–"]


def test_samples_kept_beside_the_statistics_serve_cross_entropy(run, tmp_path):
    features, labels = torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 3
    file, kept = tmp_path / "features.npz", tmp_path / "kept.safetensors"
    np.savez(file, first=features.numpy(), second=2 * features.numpy(), labels=labels.numpy())
    code, out, _ = run("stats", file, "--layers", "--samples", 12, "-o", kept)
    assert code == 0
    assert "2 layers, 12 samples kept" in out
    assert list(pnc.load_layers(kept)) == ["first", "second"]
    strengths = {"lambda_w": 0.4, "lambda_h": 0.1, "beta": 0.5}
    options = ("--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5, "--loss", "cross-entropy")
    code, out, _ = run("predict", kept, *options, "--bias", "--json")
    own = load_samples(kept)["second"]
    solution = pnc.minimize(pnc.CrossEntropyProblem(own.features, own.labels, **strengths))
    assert json.loads(out)["second"]["objective"] == solution.objective
    store = tmp_path / "sweep"
    code, _, _ = run("sweep", kept, "--reference", "first", *options, "-o", store)
    assert code == 0
    code, _, err = run("stats", file, "--layers", "--samples", 41, "-o", kept)
    assert (code, "samples must be <= 40, got 41" in err) == (2, True)
    run("stats", file, "--layers", "-o", kept)
    for command in ("predict", "sweep"):
        code, _, err = run(command, kept, *options, *(("-o", store) if command == "sweep" else ()))
        assert code == 2
        assert "holds no samples, which the loss cross-entropy needs; keep some with" in err

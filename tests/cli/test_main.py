import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from problems import near_collapse

import perturb_nc as pnc
from perturb_nc.cli import demo_run as demo
from perturb_nc.layer_files import load_samples
from perturb_nc.networks import TrainingConfig
from perturb_nc.study import predict
from perturb_nc.study.depth import PLACING


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
    assert (code, "method vicinity is of the squared loss" in err) == (2, True)


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


def test_samples_kept_beside_the_statistics_serve_cross_entropy(run, tmp_path):
    features, labels = torch.randn(40, 6, dtype=torch.float64), torch.arange(40) % 3
    file, kept = tmp_path / "features.npz", tmp_path / "kept.safetensors"
    np.savez(file, first=features.numpy(), second=2 * features.numpy(), labels=labels.numpy())
    code, out, _ = run("stats", file, "--layers", "--samples", 12, "-o", kept)
    assert code == 0
    assert "N = 40, 12 samples kept" in out
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
        (("metrics", "FEATURES"), "could not be read as a safetensors file"),
        (("nonsense",), "No such command 'nonsense'"),
        (("stats", "FEATURES", "-o", "FEATURES"), "is the input"),
        (("stats", "UNNAMED", "-o", "LABELS", "--labels", "LABELS"), "is the input"),
        (("predict", "LAYER", "-o", "LAYER"), "is the input"),
        (("stats", "UNNAMED", "-o", "out.safetensors"), "labels are missing; give --labels FILE"),
        (("predict", "OFFSET"), "badly scaled"),
        (("flow", "LAYER", "--until-time", "0"), "until_time must be > 0, got 0.0"),
        (("flow", "LAYER", "--points", "2"), "points must be >= 3, got 2"),
        (("flow", "LAYER", "--lambda-w", "0"), "lambda_w must be > 0, got 0.0"),
        (("flow", "LAYER", "--reference", "b"), "there is no layer 'b'; the layers are ['layer']"),
        (("flow", "LAYER", "-o", "LAYER"), "--output must be a folder, got the file"),
        (("depth", "LAYER"), "layers must hold at least two from start on"),
        (("depth", "LAYER", "--lambda-w", "1", "--fit", "b"), "leave out --lambda-w 1 or --fit"),
        (("depth", "LAYER", "LAYER"), "files must differ in name"),
        (("depth", "LAYER", "-o", "LAYER"), "--output must be a folder, got the file"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(arguments, message, layer, features, run, tmp_path):
    x = np.load(features)["features"].copy()
    x[3, 1] = np.nan
    np.savez(tmp_path / "bad.npz", features=x, labels=np.arange(60) % 3)
    np.save(tmp_path / "x.npy", x[:3])
    np.save(tmp_path / "y.npy", np.arange(60) % 3)
    offset = torch.from_numpy(np.load(features)["features"]) + 1e9
    statistics = pnc.ClassStatistics.from_features(offset, torch.arange(60) % 3)
    pnc.save_layers({"": statistics}, tmp_path / "offset.safetensors")
    files = {"LAYER": layer, "FEATURES": features, "BAD": tmp_path / "bad.npz"}
    files |= {"UNNAMED": tmp_path / "x.npy", "LABELS": tmp_path / "y.npy"}
    files |= {"OFFSET": tmp_path / "offset.safetensors"}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    defaults = {"--lambda-w": 0.1, "--lambda-h": 0.1, "--beta": 1}
    arguments = [files.get(a, a) for a in arguments]
    if arguments[0] in ("predict", "flow") and len(arguments) > 1:
        for option, value in defaults.items():
            if option not in arguments:
                arguments += [option, value]
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert err.startswith("perturb-nc: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beta", "-1"), "beta must be >= 0, got -1.0"),
        (("--lambda-h", "nan"), "lambda_h must be finite, got nan"),
        (("--lambda-h", "0", "--beta", "0"), "lambda_h + beta must be > 0, got 0.0"),
    ],
)
def test_demo_refuses_hyperparameters_before_it_trains(
    options, message, run, tmp_path, monkeypatch
):
    monkeypatch.setattr(demo, "train", lambda *_, **__: pytest.fail("trained"))
    code, out, err = run("demo", "-o", tmp_path / "demo", *options)
    assert (code, out, err) == (2, "", f"perturb-nc: {message}\n")
    assert not (tmp_path / "demo").exists()


def test_a_failed_factorisation_is_one_line(layer, run, monkeypatch):
    def fail(*_, **__):
        torch.linalg.cholesky(-torch.eye(2))

    monkeypatch.setattr(predict, "predict_layers", fail)
    code, _, err = run("predict", layer, "--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5)
    assert code == 2
    assert err.startswith("perturb-nc: the features are badly scaled or offset: centre and rescale")
    assert len(err.splitlines()) == 1


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


@pytest.fixture
def network(layer):
    """Layers that lie on a path, and a head of another dimension."""
    start = pnc.load_layers(layer)[""]
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.05, times=[0.5, 1.0, 40.0])
    layers = {"a": start} | {name: path.statistics(i) for i, name in enumerate("bcd")}
    moments = (start.means[:, :3], start.within[:3, :3], start.class_variance)
    layers["head"] = pnc.ClassStatistics(start.counts, *moments)
    pnc.save_layers(layers, layer.with_name("network.safetensors"))
    return layer.with_name("network.safetensors")


def test_flow_is_central_path_flow_with_the_layers_on_it(network, run, tmp_path):
    options = ("--lambda-w", 0.1, "--lambda-h", 0.05, "--until-time", 2, "--points", 9)
    code, out, err = run("flow", network, *options, "-o", tmp_path / "o")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "o" / "path.json").read_text())
    times = record["times"]
    assert (times[0], times[1], times[-1], len(times)) == (0, pytest.approx(0.002), 2, 9)
    start = pnc.load_layers(network)["a"]
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.05, times=times)
    assert record["metrics"]["nc1"] == pytest.approx([m.nc1 for m in path.metrics])
    last, growth = path.statistics(8), np.exp(2 * 0.05 * 2)
    assert record["scaled_within_trace"][8] == pytest.approx(growth * last.within.trace().item())
    assert record["scaled_between_trace"][8] == pytest.approx(growth * last.between.trace().item())
    assert record["status"] == "FINISHED"
    assert record["cost"]["steps"] == path.cost.steps
    assert {n: v["time"] for n, v in record["layers"].items()} == pytest.approx(
        {"b": 0.5, "c": 1.0, "d": 40.0}, rel=1e-3
    )
    assert "placed by ÑC1 in the span: b t = 0.5, c t = 1, d t = 40" in out
    assert "left out, not of the start layer's dimension: head" in out
    assert f"{path.metrics[-1].nc1:.3g}" in out
    assert (tmp_path / "o" / "flow.png").stat().st_size > 10_000
    code, out, _ = run("flow", network, *options, "-o", tmp_path / "o", "--json")
    assert json.loads(out) == record
    code, out, _ = run(
        "flow", network, *options, "--beta", 1, "--reference", "b", "--json", "-o", tmp_path
    )
    record = json.loads(out)
    assert (record["layer"], record["beta"], record["layers"]) == ("b", 1.0, {})


def test_depth_is_calibrate_depth(network, run, tmp_path):
    options = ("--lambda-w", 0.1, "--lambda-h", 0.05)
    code, out, err = run("depth", network, *options, "-o", tmp_path / "o")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "o" / "depth.json").read_text())["network"]
    assert record["times"] == pytest.approx({"b": 0.5, "c": 1.0, "d": 40.0}, rel=1e-3)
    assert record["metric"] == PLACING
    assert record["status"] == "CONVERGED"
    assert record["left_out"] == ["head"]
    assert record["judged"] == ["b", "c"]  # the last is given to one of the rivals
    errors = record["median_log_error"]
    assert errors["path"] < 1e-4 < 1e-3 < min(errors["shrinkage"], errors["interpolation"])
    line = f"median |log error| over b, c: path {errors['path']:.3g}, shrinkage"
    assert line in out
    assert "not of the start layer's dimension: head" in out
    assert (tmp_path / "o" / "depth-network.png").stat().st_size > 10_000
    nc2 = record["predicted"]["shrinkage"]["c"]["nc2_etf"]
    assert nc2 == record["measured"]["a"]["nc2_etf"]  # Σ_W alone shrinks: the means stay


def test_depth_fits_starts_and_marks_what_is_not_on_the_path(network, run, tmp_path):
    options = ("--lambda-h", 0.05, "-o", tmp_path, "--json")
    record = json.loads(run("depth", network, "--fit", "c", *options)[1])["network"]
    assert record["lambda_w"] == pytest.approx(0.1, rel=5e-2)
    assert record["judged"] == ["b"]
    layers = pnc.load_layers(network)
    pnc.save_layers({n: layers[n] for n in ("b", "a", "c")}, tmp_path / "turned.safetensors")
    code, out, _ = run("depth", tmp_path / "turned.safetensors", "--lambda-w", 0.1, "-o", tmp_path)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["on", "the", "path", *["–"] * 6] in rows
    record = json.loads((tmp_path / "depth.json").read_text())["turned"]
    assert record["times"]["a"] is None
    assert list(record["predicted"]["path"]) == ["c"]
    assert "over no layer: path –" in out


def test_demo_writes_what_it_names_and_resumes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BLOCKS", 2)
    monkeypatch.setattr(demo, "TRAINING", TrainingConfig(epochs=4, weight_decay=5e-3))
    code, out, _ = run("demo", "-o", tmp_path)
    assert code == 0
    for name in ("statistics.safetensors", "predictions.json", "layers.png", "report.html"):
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


def test_deep_ufm_prints_both_solutions(run):
    arguments = ("deep-ufm", "--depth", 4, "--num-classes", 10, "--decay", 0.004)
    code, out, _ = run(*arguments)
    assert code == 0
    assert "0.0991798746" in out
    assert "0.0809113322" in out
    assert "SRG / DNC = 0.8158; 0.8168 as all λ go to 0" in out
    assert "collapse is nonzero" in out
    record = json.loads(run(*arguments, "--json")[1])
    assert record["strongly_regular"]["rank"] == 5
    assert len(record["singular_values"]) == 4
    assert record["strength"] < record["threshold"]


def test_deep_ufm_says_what_there_is_not(run):
    code, out, _ = run("deep-ufm", "--depth", 2, "--num-classes", 3, "--decay", 0.5)
    assert code == 0
    assert "collapse is zero" in out
    assert "no SRG solution" in out
    two = ("deep-ufm", "--depth", 3, "--num-classes", 2, "--decay", 5e-3, "--samples-per-class", 10)
    assert "0.0354060429" in run(*two)[1]
    code, _, error = run(*two, "--feature-decay", -1)
    assert (code, error) == (2, "perturb-nc: lambda_h must be > 0, got -1.0\n")

import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc.study import predict


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


def test_a_failed_factorisation_is_one_line(layer, run, monkeypatch):
    def fail(*_, **__):
        torch.linalg.cholesky(-torch.eye(2))

    monkeypatch.setattr(predict, "predict_layers", fail)
    code, _, err = run("predict", layer, "--lambda-w", 0.4, "--lambda-h", 0.1, "--beta", 0.5)
    assert code == 2
    assert err.startswith("perturb-nc: the features are badly scaled or offset: centre and rescale")
    assert len(err.splitlines()) == 1

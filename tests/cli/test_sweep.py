import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import perturb_nc as pnc
from perturb_nc.cli.sweep import parse_axis
from perturb_nc.study import models
from perturb_nc.study.sweep_store import open_sweep

ROOT = Path(pnc.__file__).parent.parent
AXES = ("--lambda-w", "1e-2:1:3", "--lambda-h", "0.1,0.2", "--beta", "1")


def test_the_sweep_command_is_sweep_and_plot_draws_it(statistics, small_layer, run, tmp_path):
    store = tmp_path / "sweep.zarr"
    code, out, err = run("sweep", small_layer, *AXES, "-o", store, "--flow-times", "0.5,1")
    expected = pnc.sweep(
        statistics,
        lambda_w=[0.01, 0.1, 1.0],
        lambda_h=[0.1, 0.2],
        beta=1.0,
        flow_times=[0.5, 1.0],
    )
    assert code == 0
    proved = int(expected["is_global"].sum())
    assert out.endswith(f": 6 converged; {proved} certified as the global optimum\n")
    assert "6/6" in err
    xr.testing.assert_allclose(open_sweep(store), expected, rtol=1e-8)
    again = json.loads(
        run("sweep", small_layer, *AXES, "-o", store, "--flow-times", "0.5,1", "--json")[1]
    )
    assert again == {"file": str(store), "status": {"converged": 6}, "is_global": proved}
    drawn = run("plot", store, "-o", tmp_path / "map.pdf", "--json")[1]
    assert json.loads(drawn) == {"file": str(tmp_path / "map.pdf")}
    code, out, _ = run("plot", store, "-o", tmp_path / "map.png", "--metric", "cdnv")
    assert (code, out) == (0, f"wrote {tmp_path / 'map.png'}\n")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_the_sweep_command_in_closed_form(small_layer, run, tmp_path):
    store = tmp_path / "sweep.zarr"
    code, out, _ = run("sweep", small_layer, *AXES, "-o", store, "--method", "vicinity")
    assert code == 0
    assert out.endswith(" not_small; in closed form\n")
    assert open_sweep(store)["nc1"].notnull().all()
    assert run("plot", store, "-o", tmp_path / "map.png", "--metric", "nc2_etf")[0] == 0
    code, _, err = run("sweep", small_layer, *AXES, "-o", store)
    assert (code, "holds a sweep with other method" in err) == (2, True)


def test_a_stopped_sweep_goes_on(small_layer, run, tmp_path, monkeypatch):
    arguments = ("sweep", small_layer, *AXES, "-o", tmp_path / "sweep.zarr", "--chunk", 2)
    solve, calls = models.minimize_batch, []

    def until_stopped(*arguments, **settings):
        calls.append(settings)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return solve(*arguments, **settings)

    monkeypatch.setattr(models, "minimize_batch", until_stopped)
    code, out, err = run(*arguments)
    assert (code, out) == (130, "")
    assert "2/6" in err
    assert "stopped; repeat the command to go on with" in err
    code, out, _ = run(*arguments)
    assert code == 0
    assert ": 6 converged;" in out
    assert len(calls) == 4  # three chunks, and the one that was stopped


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.5", [0.5]), ("0,1e-3,2", [0, 1e-3, 2]), ("1e-3:10:5", [1e-3, 1e-2, 0.1, 1, 10])],
)
def test_axes(text, expected):
    np.testing.assert_allclose(parse_axis(text, "beta"), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sweep", "LAYER", *AXES, "-o", "S", "--beta", "1:2"), "beta must be start:stop:count"),
        (("sweep", "LAYER", *AXES, "-o", "S", "--beta", "0:1:3"), "with 0 < start < stop"),
        (("sweep", "LAYER", *AXES, "-o", "S", "--lambda-w", "x"), "lambda_w must be start:stop"),
        (("sweep", "LAYER", *AXES, "-o", "S", "--lambda-w", "-1"), "lambda_w must be >= 0, got -1"),
        (("sweep", "LAYER", *AXES, "-o", "S", "--reference", "b"), "there is no layer 'b'"),
        (("sweep", "TWO", *AXES, "-o", "S"), "give --reference; the layers of"),
        (("sweep", "LAYER", *AXES, "-o", "S", "--workers", "-1"), "workers must be >= 0, got -1"),
        (("sweep", "LAYER", *AXES, "-o", "LAYER"), "is not the store of a sweep"),
        (("sweep", "LAYER", "-o", "S"), "Missing option '--lambda-w'"),
        (("plot", "S", "-o", "x.png"), "no store at"),
        (("plot", "LAYER", "-o", "x.png"), "is not the store of a sweep"),
        (("plot", "S", "-o", "x.txt"), "--output must end in .png, .pdf or .svg"),
        (("plot", "S", "-o", "x.png", "--beta", "b"), "beta must be start:stop:count"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(
    arguments, message, small_layer, statistics, run, tmp_path
):
    two = tmp_path / "two.safetensors"
    pnc.save_layers({"a": statistics, "b": statistics}, two)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    files = {"LAYER": small_layer, "TWO": two, "S": tmp_path / "s.zarr"}
    code, out, err = run(*(files.get(a, a) for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("perturb-nc: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

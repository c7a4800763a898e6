import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.cli.sweep import parse_axis
from perturb_nc.study import models
from perturb_nc.study.sweep_store import open_sweep

ROOT = Path(pnc.__file__).parent.parent
AXES = ("--lambda-w", "1e-2:1:3", "--lambda-h", "0.1,0.2", "--beta", "1")


@pytest.fixture(scope="module")
def statistics():
    return random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics


@pytest.fixture
def layer(statistics, tmp_path):
    pnc.save_layers({"": statistics}, tmp_path / "layer.safetensors")
    return tmp_path / "layer.safetensors"


def test_the_sweep_command_is_sweep_and_plot_draws_it(statistics, layer, run, tmp_path):
    store = tmp_path / "sweep.zarr"
    code, out, err = run("sweep", layer, *AXES, "-o", store, "--flow-times", "0.5,1")
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
    code, out, _ = run("plot", store, "-o", tmp_path / "map.png", "--metric", "cdnv")
    assert (code, out) == (0, f"wrote {tmp_path / 'map.png'}\n")
    assert (tmp_path / "map.png").stat().st_size > 10_000


def test_the_sweep_command_in_closed_form(layer, run, tmp_path):
    store = tmp_path / "sweep.zarr"
    code, out, _ = run("sweep", layer, *AXES, "-o", store, "--method", "vicinity")
    assert code == 0
    assert out.endswith(" not_small; in closed form\n")
    assert open_sweep(store)["nc1"].notnull().all()
    assert run("plot", store, "-o", tmp_path / "map.png", "--metric", "nc2_etf")[0] == 0
    code, _, err = run("sweep", layer, *AXES, "-o", store)
    assert (code, "holds a sweep with other method" in err) == (2, True)


def test_a_stopped_sweep_goes_on(layer, run, tmp_path, monkeypatch):
    arguments = ("sweep", layer, *AXES, "-o", tmp_path / "sweep.zarr", "--chunk", 2)
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


def start(layer, store, workers=2):
    """The command with work for minutes, once its workers run."""
    axes = [w for o in ("--lambda-w", "--lambda-h", "--beta") for w in (o, "1e-4:1:24")]
    words = ["sweep", layer, *axes, "-o", store, "--workers", workers, "--chunk", 24]
    command = [sys.executable, "-m", "perturb_nc", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # Without what pytest itself may have been told to ignore, as by nohup.
    heard = lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL)  # noqa: E731
    process = subprocess.Popen(command, **pipes, text=True, cwd=ROOT, preexec_fn=heard)
    while not store.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    return process, psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGTERM", "SIGHUP", "SIGKILL"])
def test_no_worker_outlives_the_command(layer, tmp_path, how):
    process, workers = start(layer, tmp_path / "s.zarr")
    assert len(workers) >= 2
    process.send_signal(signal.Signals[how])
    _, err = process.communicate(timeout=60)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    if how == "SIGKILL":
        return
    assert process.returncode == 128 + signal.Signals[how]
    assert "stopped; repeat the command to go on with" in err
    assert "Traceback" not in err
    open_sweep(tmp_path / "s.zarr")  # whatever was being written, it can be read


@pytest.mark.slow
def test_a_killed_worker_is_one_line(layer, tmp_path):
    process, workers = start(layer, tmp_path / "s.zarr")
    victims = [w for w in workers if "spawn_main" in " ".join(w.cmdline())]
    victims[0].kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    lines = [line for line in err.splitlines() if "perturb-nc" in line]
    assert lines == [err.splitlines()[-1]]
    assert "a worker process was killed, perhaps for want of memory; repeat the command" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=20)[1]


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
    arguments, message, layer, statistics, run, tmp_path
):
    two = tmp_path / "two.safetensors"
    pnc.save_layers({"a": statistics, "b": statistics}, two)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    files = {"LAYER": layer, "TWO": two, "S": tmp_path / "s.zarr"}
    code, out, err = run(*(files.get(a, a) for a in arguments))
    assert (code, out) == (2, "")
    assert err.startswith("perturb-nc: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

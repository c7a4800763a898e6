import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import perturb_nc as pnc
from perturb_nc.study.sweep_store import open_sweep

ROOT = Path(pnc.__file__).parent.parent


def start(small_layer, store, workers=2):
    """The command with work for minutes, once its workers run."""
    axes = [w for o in ("--lambda-w", "--lambda-h", "--beta") for w in (o, "1e-4:1:24")]
    words = ["sweep", small_layer, *axes, "-o", store, "--workers", workers, "--chunk", 24]
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
def test_no_worker_outlives_the_command(small_layer, tmp_path, how):
    process, workers = start(small_layer, tmp_path / "s.zarr")
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
def test_a_killed_worker_is_one_line(small_layer, tmp_path):
    process, workers = start(small_layer, tmp_path / "s.zarr")
    victims = [w for w in workers if "spawn_main" in " ".join(w.cmdline())]
    victims[0].kill()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    lines = [line for line in err.splitlines() if "perturb-nc" in line]
    assert lines == [err.splitlines()[-1]]
    assert "a worker process was killed, perhaps for want of memory; repeat the command" in err
    assert "Traceback" not in err
    assert not psutil.wait_procs(workers, timeout=20)[1]

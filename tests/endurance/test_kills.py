"""Processes killed at random times: sweeps lose no finished cell, trainings no saved epoch."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from damage import generator
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.training import TrainingConfig, train
from perturb_nc.study.sweep_store import open_sweep

ROOT = Path(pnc.__file__).parent.parent
TESTS = Path(__file__).parents[1]
AXES = {"lambda_w": "1e-3:1:9", "lambda_h": "1e-3:0.5:6", "beta": "0.1:10:5"}
CHUNK = 4
KILLS = {"here": 76, "in 2 workers": 12, "of a training": 20}
PARTS = 4  # of the kills of sweeps, for as many processes of pytest
SIGNALS = ("SIGKILL", "SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
DEFAULTS = "import signal; [signal.signal(n, signal.SIG_DFL) for n in (1, 15)]; "
DEFAULTS += "signal.signal(2, signal.default_int_handler); "  # as a terminal starts it
MAIN = DEFAULTS + "from perturb_nc.cli.main import main; main()"


def started(code, *words):
    """A process of its own session, as from a terminal of its own, with one thread of torch."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    environment["PYTHONPATH"] = os.pathsep.join(map(str, (ROOT, TESTS, Path(__file__).parent)))
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    statistics = random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics
    path = tmp_path_factory.mktemp("layer") / "layer.safetensors"
    pnc.save_layers({"": statistics}, path)
    return path


@pytest.fixture(scope="module")
def whole(layer, tmp_path_factory):
    """The sweep without an interruption, by the same command."""
    store = tmp_path_factory.mktemp("whole") / "sweep.zarr"
    process = started(MAIN, *words(layer, store))
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 0, error
    return open_sweep(store)


def words(layer, store, workers=0):
    axes = [w for n, axis in AXES.items() for w in (f"--{n.replace('_', '-')}", axis)]
    return ["sweep", layer, *axes, "-o", store, "--chunk", CHUNK, "--workers", workers]


def cells(store):
    """Bits of every settled cell, by place."""
    found = open_sweep(store)
    settled = np.argwhere(found["status"].values > 0)
    names = [name for name in found if found[name].dims[:3] == tuple(AXES)]
    return {tuple(at): [found[n].values[tuple(at)].tobytes() for n in names] for at in settled}


def attacked(ledger, layer, store, before, kill, workers=0):
    """One start of the sweep that a signal ends; gives the cells that are there then."""
    rng = generator(ledger.seed, "kill", workers, kill)
    process = started(MAIN, *words(layer, store, workers))
    how = rng.choice(SIGNALS)
    deadline = time.monotonic() + 120
    chunks = rng.randrange(0, 30)
    status = store / "status"
    there = len(list(status.glob("[0-9]*"))) if status.exists() else 0
    # From just before the first write on, whenever that is on this machine.
    while time.monotonic() < deadline and process.poll() is None:
        now = len(list(status.glob("[0-9]*"))) if status.exists() else 0
        if now >= there + chunks:
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.3))
    family = []
    if process.poll() is None:
        family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.Signals[how])
    try:
        error = process.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        ledger.falls_by("orphans", f"kill {kill}: {how} does not end the command")
        return before
    judge(ledger, f"kill {kill}, {how}", error, family)
    after = cells(store) if store.exists() else {}
    if lost := [at for at, bits in before.items() if after.get(at) != bits]:
        ledger.falls_by("lost rows", f"kill {kill}, {how}: {len(lost)} finished cells")
    ledger.ends(f"{how}, all cells kept")
    return after


def judge(ledger, attempt, error, family):
    if "Traceback" in error:
        ledger.falls_by("tracebacks", f"{attempt}: {error[-500:]}")
    if "damaged" in error:
        ledger.falls_by("lost rows", f"{attempt}: {error[-300:]}")
    for orphan in psutil.wait_procs(family, timeout=20)[1]:
        ledger.falls_by("orphans", f"{attempt}: {orphan}")
        orphan.kill()


@pytest.mark.parametrize("part", range(PARTS))
def test_kills_of_sweeps(part, layer, whole, tmp_path, ledger, caplog):
    attack(ledger, layer, whole, tmp_path, range(part, KILLS["here"], PARTS), 0)
    assert "damaged" not in caplog.text


def test_kills_of_sweeps_with_workers(layer, whole, tmp_path, ledger, caplog):
    attack(ledger, layer, whole, tmp_path, range(KILLS["in 2 workers"]), 2)
    assert "damaged" not in caplog.text


def attack(ledger, layer, whole, folder, kills, workers):
    """Kills of one sweep after the other: when one is finished the next begins."""
    round_, store, there = 0, folder / "0" / "sweep.zarr", {}
    for kill in kills:
        there = attacked(ledger, layer, store, there, kill, workers)
        if len(there) == whole["status"].size or kill == kills[-1]:
            finish(ledger, layer, store, whole, workers)
            shutil.rmtree(store.parent)
            there = {}
            round_ += 1
            store = folder / str(round_) / "sweep.zarr"


def finish(ledger, layer, store, whole, workers):
    """The last start goes on to the end, with the same bits, and leaves nothing beside."""
    process = started(MAIN, *words(layer, store, workers))
    error = process.communicate(timeout=300)[1]
    if process.returncode:
        ledger.falls_by("tracebacks", f"the last start: {error[-500:]}")
        return
    judge(ledger, "the last start", error, [])
    if not open_sweep(store).identical(whole):
        ledger.falls_by("silent changes", "the finished sweep has other bits")
    # What a kill left is removed by the next process that makes files there.
    pnc.save_layers({"": pnc.load_layers(layer)[""]}, store.parent / "next.safetensors")
    left = [p.name for p in store.parent.iterdir() if p.name.startswith(".perturb-nc")]
    if left:
        ledger.falls_by("orphans", f"files left: {left}")
    ledger.ends("gone on with to the same bits")


EPOCHS = 14
TRAINING = DEFAULTS + "import sys, test_kills; test_kills.trained(sys.argv[1])"


def trained(folder):
    """A measured training that goes on from what the folder holds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MLP(16, (32, 32), 4, batch_norm=True)
    data = Dataset("noise", torch.randn(400, 16), torch.arange(400) % 4, 4)
    monitor = CollapseMonitor(model, data, path=Path(folder) / "run.jsonl")
    table = CollapseMonitor(model, data, path=Path(folder) / "run.csv")
    config = TrainingConfig(epochs=EPOCHS, batch_size=8, learning_rate=0.01, schedule="one_cycle")

    def on_epoch(record):
        monitor.on_epoch(record)
        table.on_epoch(record)

    train(model, data, config, checkpoint=Path(folder) / "run.pt", on_epoch=on_epoch)
    return model, read_epochs(Path(folder) / "run.jsonl")


def saved(folder):
    path = folder / "run.pt"
    return len(torch.load(path, weights_only=True)["history"]) if path.exists() else 0


def epochs_in(folder):
    path = folder / "run.jsonl"
    return [r["epoch"] for r in read_epochs(path)] if path.exists() else []


def test_kills_of_trainings(tmp_path, ledger):
    for name in ("straight", "0"):
        (tmp_path / name).mkdir()
    model, wanted = trained(tmp_path / "straight")
    folder, round_ = tmp_path / "0", 0
    for kill in range(KILLS["of a training"]):
        rng = generator(ledger.seed, "training", kill)
        done, rows = saved(folder), epochs_in(folder)
        process = started(TRAINING, folder)
        goal = min(done + rng.randint(1, 3), EPOCHS - 1)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None and saved(folder) < goal:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        judge(ledger, f"kill {kill}", process.communicate()[1], [])
        now, measured = saved(folder), epochs_in(folder)
        if now < done or measured[: len(rows)] != rows:
            ledger.falls_by("lost rows", f"kill {kill}: {done} epochs, then {now}")
        if measured[:now] != list(range(1, now + 1)) or len(measured) > now + 1:
            ledger.falls_by("lost rows", f"kill {kill}: {now} saved, measured {measured}")
        ledger.ends("all saved epochs kept")
        if now >= EPOCHS - 1 or kill == KILLS["of a training"] - 1:
            compare(ledger, folder, model, wanted)
            round_ += 1
            folder = tmp_path / str(round_)
            folder.mkdir()


def compare(ledger, folder, model, wanted):
    found, records = trained(folder)
    states = zip(found.state_dict().values(), model.state_dict().values(), strict=True)
    if not all(torch.equal(p, q) for p, q in states):
        ledger.falls_by("silent changes", "the finished training has other weights")
    for name in ("layers", "loss", "accuracy"):
        if [r[name] for r in records] != [r[name] for r in wanted]:
            ledger.falls_by("silent changes", f"the epochs have another {name}")
    if left := [p.name for p in folder.iterdir() if p.name.startswith(".perturb-nc")]:
        ledger.falls_by("orphans", f"files left: {left}")
    ledger.ends("gone on with to the same bits")

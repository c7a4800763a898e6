"""In a mount namespace of its own: what every command does on a disk with so many bytes left.

    unshare -m python full_disk.py FOLDER LAYERS FEATURES

FOLDER gets a tmpfs that nobody else sees. Prints the counts as JSON.
"""

import contextlib
import io
import json
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from perturb_nc.cli import demo_run
from perturb_nc.cli import main as cli
from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.networks.architectures import MLP
from perturb_nc.study.sweep_store import open_sweep

MEBIBYTE = 2**20
SIZES = (0, 100, 3000, 9000, 20_000, 60_000, 200_000)
MODEL = ["--lambda-w", "0.1", "--lambda-h", "0.05"]


class Disk:
    """A tmpfs of 8 MiB, filled but for some bytes."""

    def __init__(self, folder):
        self.folder = Path(folder)
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder]
        subprocess.run(command, check=True)

    def leave(self, size):
        """Fill all but `size` bytes, rounded up to pages."""
        self.free()
        filler = self.folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        pages = -(-size // 4096)
        with filler.open("r+b") as file:
            file.truncate(max(filler.stat().st_size - 4096 * pages, 0))

    def free(self):
        (self.folder / "filler").unlink(missing_ok=True)


def called(*words):
    """Exit code and stderr of a command; what it raises, where it does."""
    sys.argv = ["perturb-nc", *map(str, words)]
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as error:
            return error.code, err.getvalue()
        except BaseException as error:
            return repr(error), err.getvalue()
    return 0, err.getvalue()


class Trial:
    """The attempts and the faults of all."""

    def __init__(self, disk, good):
        self.disk, self.good = disk, good
        self.ended, self.faults = Counter(), []

    def command(self, name, words, kept=()):
        """Run with every size left; files that were there stay as they were."""
        before = {path: path.read_bytes() for path in kept}
        for size in SIZES:
            self.disk.leave(size)
            code, err = called(*words)
            lines = [line for line in err.splitlines() if line.startswith("perturb-nc: ")]
            if code == 0:
                self.ended["there was room"] += 1
            elif code == 2 and len(lines) == 1 and "Traceback" not in err:
                self.ended["one line"] += 1
            else:
                self.faults.append(f"tracebacks: {name}, {size} bytes: {code} {err[-400:]}")
            changed = [p.name for p, b in before.items() if code and p.read_bytes() != b]
            if changed:
                self.faults.append(f"lost rows: {name}, {size} bytes: {changed} changed")
            if left := [p.name for p in self.disk.folder.rglob(".perturb-nc-*")]:
                self.faults.append(f"orphans: {name}, {size} bytes: {left}")
        self.disk.free()


def statistics(trial, folder):
    out = folder / "out.safetensors"
    words = ("stats", trial.good["x"], "-o", out)
    assert called(*words)[0] == 0
    trial.command("stats", words, kept=[out])


def report(trial, folder):
    out = folder / "report.html"
    out.write_text("an older report")
    words = ("report", trial.good["layers"], "--no-pairs", "-o", out)
    trial.command("report", words, kept=[out])


def sweep(trial, folder):
    store = folder / "sweep.zarr"
    axes = ["--lambda-w", "0.05,0.1,0.2", "--lambda-h", "0.05,0.1", "--beta", "1,2"]
    words = ("sweep", trial.good["layers"], "--reference", "a", *axes, "--chunk", "1", "-o", store)
    whole = folder.parent / "whole.zarr"
    assert called(*words[:-1], whole)[0] == 0
    settled = {}
    for size in (0, 20_000, 200_000, 400_000, 600_000, 800_000):
        trial.disk.leave(size)
        code, err = called(*words)
        if code not in (0, 2) or "Traceback" in err:
            trial.faults.append(f"tracebacks: sweep, {size} bytes: {code} {err[-400:]}")
        trial.ended["one line" if code else "there was room"] += 1
        if not store.exists():
            continue
        found, wanted = open_sweep(store), open_sweep(whole)
        there = {tuple(at) for at in np.argwhere(found["status"].values > 0)}
        if settled.get("cells", set()) - there or "damaged" in err:
            trial.faults.append(f"lost rows: sweep, {size} bytes: {err[-200:]}")
        settled["cells"] = there
        left = found["status"] > 0
        if not found["nc1"].where(left).equals(wanted["nc1"].where(left)):
            trial.faults.append(f"silent changes: sweep, {size} bytes")
    trial.disk.free()
    code, err = called(*words)
    if code or not open_sweep(store).identical(open_sweep(whole)):
        trial.faults.append(f"lost rows: sweep, gone on with: {code} {err[-200:]}")


def monitor(trial, folder):
    torch.manual_seed(0)
    model = MLP(16, (12,), 4)
    data = Dataset("noise", torch.randn(40, 16), torch.arange(40) % 4, 4)
    monitors = [CollapseMonitor(model, data, path=folder / f"run.{s}") for s in ("jsonl", "csv")]
    for epoch in range(1, 40):
        trial.disk.leave((0, 0, 0, 3000)[epoch % 4])
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for one in monitors:
                one(epoch)
        trial.ended["one warning" if said else "there was room"] += len(monitors)
        lines = (folder / "run.jsonl").read_bytes() if (folder / "run.jsonl").exists() else b""
        whole = not lines or lines.endswith(b"\n")
        if not whole or any(not line.endswith(b"}") for line in lines.splitlines()):
            trial.faults.append(f"lost rows: monitor, epoch {epoch}: half a line")
    trial.disk.free()
    for one in monitors:
        one(40)
    epochs = [record["epoch"] for record in read_epochs(folder / "run.jsonl")]
    rows = (folder / "run.csv").read_text().splitlines()
    found = [int(row.split(",")[0]) for row in rows[1:]]
    if epochs != list(range(1, 41)) or sorted(set(found)) != epochs:
        trial.faults.append(f"lost rows: monitor: {epochs}, {found}")


def demo(trial, folder):
    """Its checkpoints, of two epochs rather than 200, and what it writes at the end."""
    short = replace(demo_run.TRAINING, epochs=2, milestones=(1,))
    demo_run.TRAINING, demo_run.run_demo = short, partial(demo_run.run_demo, config=short)
    out = folder / "demo"
    for size in (0, 30_000, 150_000, 400_000):
        trial.disk.leave(size)
        code, err = called("demo", "-o", out)
        lines = [line for line in err.splitlines() if line.startswith("perturb-nc: ")]
        if code == 0:
            trial.ended["there was room"] += 1
        elif code == 2 and len(lines) == 1 and "Traceback" not in err:
            trial.ended["one line"] += 1
        else:
            trial.faults.append(f"tracebacks: demo, {size} bytes: {code} {err[-600:]}")
        if left := [p.name for p in trial.disk.folder.rglob(".perturb-nc-*")]:
            trial.faults.append(f"orphans: demo, {size} bytes: {left}")
    trial.disk.free()


def main():
    folder, layers, features = map(Path, sys.argv[1:4])
    torch.set_num_threads(1)
    disk = Disk(str(folder))
    trial = Trial(disk, {"layers": layers, "x": features})
    for attempt in (statistics, report, sweep, monitor, demo):
        (folder / attempt.__name__).mkdir()
        attempt(trial, folder / attempt.__name__)
    print(json.dumps({"ended": trial.ended, "faults": trial.faults}))


if __name__ == "__main__":
    main()

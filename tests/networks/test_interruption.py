"""kill -9 at random moments: at most the epoch under way is lost, and nothing is corrupt."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.training import TrainingConfig, train

HERE = Path(__file__).parent
SCRIPT = """
import sys
sys.path[:0] = sys.argv[3:]
import test_interruption
test_interruption.run(sys.argv[1], int(sys.argv[2]))
"""


def run(folder, epochs):
    """A run that goes on from what the folder holds; says when an epoch ends, before measuring."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MLP(16, (32, 32), 4, batch_norm=True)
    data = Dataset("noise", torch.randn(400, 16), torch.arange(400) % 4, 4)
    monitor = CollapseMonitor(model, data, path=Path(folder) / "run.jsonl")
    config = TrainingConfig(epochs=epochs, batch_size=8, learning_rate=0.01, schedule="one_cycle")

    def on_epoch(record):
        print(record.epoch, flush=True)
        monitor.on_epoch(record)

    train(model, data, config, checkpoint=Path(folder) / "run.pt", on_epoch=on_epoch)
    return model, read_epochs(Path(folder) / "run.jsonl")


def kill_and_check(folder, epochs, epoch, delay):
    """Start, kill a while after the end of an epoch; gives the number of epochs that are saved."""
    command = [
        sys.executable,
        "-c",
        SCRIPT,
        str(folder),
        str(epochs),
        str(HERE),
        str(HERE.parent.parent),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    while int(process.stdout.readline()) < epoch:
        pass
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(torch.load(folder / "run.pt", weights_only=True)["history"])
    measured = [r["epoch"] for r in read_epochs(folder / "run.jsonl")]
    # Measured before it is saved: at most one epoch ahead of the checkpoint, none missing.
    assert measured[:done] == list(range(1, done + 1))
    assert len(measured) <= done + 1
    return done


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.slow)])
def test_killed_runs_end_with_the_same_bits(tmp_path, kills):
    folders = tmp_path / "straight", tmp_path / "killed"
    epochs = 3 + 4 * kills
    for folder in folders:
        folder.mkdir()
    model, wanted = run(folders[0], epochs)
    generator, done = random.Random(kills), 0
    for _ in range(kills):
        epoch = done + generator.randint(2, 3)
        done = kill_and_check(folders[1], epochs, epoch, generator.uniform(0, 0.1))
        assert done >= epoch - 1  # all but the epoch that was being measured or saved
    found, records = run(folders[1], epochs)
    for p, q in zip(found.state_dict().values(), model.state_dict().values(), strict=True):
        assert torch.equal(p, q)
    assert [e["epoch"] for e in records] == list(range(1, epochs + 1))
    for one, other in zip(records, wanted, strict=True):
        assert one["layers"] == other["layers"]
        assert one["loss"] == other["loss"]

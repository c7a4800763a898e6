import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks import parallel
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.checkpoints import EpochRecord
from perturb_nc.networks.training import TrainingConfig, train

ROOT = Path(__file__).parent.parent.parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
CONFIG = TrainingConfig(epochs=3, batch_size=16, weight_decay=1e-3, seed=4)
SCRIPT = """
import sys
from dataclasses import asdict
import torch
sys.path.insert(0, sys.argv[2])
from test_parallel import CONFIG, clusters, fresh
from perturb_nc.networks.parallel import processes, world
from perturb_nc.networks.training import train
torch.set_num_threads(1)
with processes() as device:
    model, seen = fresh().to(device), []
    history = train(model, clusters(), CONFIG, checkpoint=sys.argv[1] + "/run.pt",
                    on_epoch=seen.append)
    rank, size = world()
    result = {"model": model.state_dict(), "history": [asdict(r) for r in history],
              "seen": len(seen), "size": size}
    torch.save(result, f"{sys.argv[1]}/result-{rank}.pt")
"""


def as_torchrun_would(script):
    """Two processes with the variables that torchrun sets."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    started = [
        subprocess.Popen(
            [sys.executable, *script],
            env={**ENVIRONMENT, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in (0, 1)
    ]
    for process in started:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()[-2000:]


def torchrun(script):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", *script]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def clusters(n=61):  # the last batch has 13 samples: 7 and 6
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 3
    centres = torch.randn(3, 6, generator=generator)
    noise = torch.randn(n, 6, generator=generator)
    return Dataset("clusters", centres[labels] + 0.3 * noise, labels, 3)


def fresh():
    torch.manual_seed(0)
    return MLP(6, (8, 8), 3)


@pytest.mark.parametrize(
    "launch", [as_torchrun_would, pytest.param(torchrun, marks=pytest.mark.slow)]
)
def test_two_processes_train_as_one_would(tmp_path, launch):
    alone = fresh()
    history = train(alone, clusters(), CONFIG)
    (tmp_path / "script.py").write_text(SCRIPT)
    script = [str(tmp_path / "script.py"), str(tmp_path), str(Path(__file__).parent)]
    launch(script)
    results = [torch.load(tmp_path / f"result-{i}.pt", weights_only=True) for i in (0, 1)]
    assert [result["seen"] for result in results] == [3, 0]
    for result in results:
        assert result["size"] == 2
        for name, value in alone.state_dict().items():
            torch.testing.assert_close(result["model"][name], value, rtol=1e-5, atol=1e-6)
        for found, wanted in zip(result["history"], history, strict=True):
            assert found["loss"] == pytest.approx(wanted.loss, rel=1e-5)
            assert found["accuracy"] == pytest.approx(wanted.accuracy)
    # The checkpoint of two processes is one of one process.
    assert train(fresh(), clusters(), CONFIG, checkpoint=tmp_path / "run.pt") == [
        EpochRecord(**record) for record in results[0]["history"]
    ]


def test_a_process_takes_every_nth_row(monkeypatch):
    batch = torch.arange(7), torch.arange(14).reshape(7, 2)
    assert parallel.part_of(*batch) == batch
    monkeypatch.setattr(parallel, "world", lambda: (1, 3))
    rows, pairs = parallel.part_of(*batch)
    assert rows.tolist() == [1, 4]
    assert pairs.tolist() == [[2, 3], [8, 9]]


def test_every_process_needs_a_sample_of_every_batch(monkeypatch):
    import perturb_nc.networks.training as module

    monkeypatch.setattr(module, "world", lambda: (0, 20))
    with pytest.raises(ValueError, match="for each of 20 processes, got 16, which leaves 13 of 61"):
        train(fresh(), clusters(), CONFIG)


def test_without_torchrun_there_is_one_process(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with parallel.processes() as device:
        assert device.type in ("cpu", "cuda")
        assert parallel.world() == (0, 1)

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from measured_models import K, labelled
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.measure.monitor import CollapseMonitor

N = 61  # two processes take 31 each, one of them twice


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, K)).double()


def data():
    return TensorDataset(*labelled(6, n=N))


class Record:
    epoch, loss, accuracy = 3, 0.5, 1.0


def _monitor_in_process(rank, folder):
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    torch.set_num_threads(1)
    whole, path = data(), Path(folder) / "run.jsonl"
    sampler = DistributedSampler(whole, 2, rank, shuffle=True, seed=5)
    loader = DataLoader(whole, batch_size=8, sampler=sampler)
    monitor = CollapseMonitor(network(), loader, path=path)
    found = [monitor(epoch)["2"].nc1_trace for epoch in (1, 2)]
    if rank == 0:  # as `train` does: the first process alone, with all samples
        CollapseMonitor(network(), whole, path=path).on_epoch(Record)
    errors = []
    for bad in (DataLoader(whole, 8, sampler=[] if rank else None), [] if rank else loader):
        try:
            CollapseMonitor(network(), bad)(1)
        except (ValueError, RuntimeError) as error:
            errors.append(str(error))
    try:
        CollapseMonitor(network(), loader, covariance="span")(1)
    except ValueError as error:
        errors.append(str(error))
    Path(folder, f"{rank}.json").write_text(json.dumps([found, errors]))
    dist.destroy_process_group()


def test_two_processes_measure_as_one_and_write_once(tmp_path):
    mp.spawn(_monitor_in_process, args=(str(tmp_path),), nprocs=2)
    wanted = CollapseMonitor(network(), data())(1)["2"].nc1_trace
    for rank in (0, 1):
        found, errors = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found == pytest.approx([wanted, wanted], rel=1e-12)
        of_other = "process 1 loader gave no batch"
        assert all(e.startswith("loader gave no batch" if rank else of_other) for e in errors[:2])
        assert len(errors) == 3
        assert "covariance='span' is of one process" in errors[2]
    records = read_epochs(tmp_path / "run.jsonl")
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert len((tmp_path / "run.jsonl").read_text().splitlines()) == 3
    traces = [r["layers"]["2"]["nc1_trace"] for r in records]
    assert traces == pytest.approx([wanted] * 3, rel=1e-12)

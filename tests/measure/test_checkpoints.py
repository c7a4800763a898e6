"""Checkpoints of a training, measured one after the other."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import perturb_nc as pnc
from perturb_nc.measure.checkpoints import checkpoint_files, load_weights, measure_checkpoints
from perturb_nc.measure.epoch_file import read_epochs

LOADER = [(torch.randn(30, 4, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)]


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints as three trainers write them, and two files that are none."""
    torch.save(network(1).state_dict(), tmp_path / "epoch-2.pt")
    wrapped = {f"module.{name}": value for name, value in network(2).state_dict().items()}
    torch.save({"state_dict": wrapped, "epoch": 10}, tmp_path / "epoch-10.ckpt")
    (tmp_path / "checkpoint-3").mkdir()
    save_file(network(3).state_dict(), tmp_path / "checkpoint-3" / "model.safetensors")
    torch.save(network(4).state_dict(), tmp_path / "last.pt")
    (tmp_path / "log-7.txt").write_text("a log")
    return tmp_path


def test_every_checkpoint_is_measured_in_order_and_the_model_stays(folder, tmp_path):
    model, done = network(0), []
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "metrics.jsonl"
    monitor = measure_checkpoints(
        model, LOADER, folder, on_epoch=done.append, path=path, layers=["0"]
    )
    assert done == [2, 3, 10]
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    for record, seed in zip(monitor.records, (1, 3, 2), strict=True):
        own = pnc.collect_statistics(network(seed), LOADER, layers=["0"])["0"]
        assert record["layers"]["0"]["nc1"] == pnc.collapse_metrics(own).nc1
    assert [record["file"] for record in monitor.records] == [
        "epoch-2.pt", "checkpoint-3/model.safetensors", "epoch-10.ckpt",
    ]  # fmt: skip
    assert [record["epoch"] for record in read_epochs(path)] == [2, 3, 10]


def test_a_checkpoint_of_another_model_is_refused_and_the_model_stays(folder):
    other = nn.Sequential(nn.Linear(4, 5))
    before = other[0].weight.detach().clone()
    with pytest.raises(ValueError, match=r"epoch-2\.pt holds the weights of another model"):
        measure_checkpoints(other, LOADER, folder)
    assert other[0].weight.equal(before)
    torch.save([1, 2], folder / "epoch-2.pt")
    with pytest.raises(ValueError, match="holds no state dictionary"):
        load_weights(other, folder / "epoch-2.pt")


def test_folders_without_an_order_are_refused(folder, tmp_path):
    torch.save(network(1).state_dict(), folder / "again-2.pt")
    with pytest.raises(ValueError, match="two checkpoints have the number 2"):
        checkpoint_files(folder)
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no checkpoint with a number"):
        checkpoint_files(tmp_path / "none")
    with pytest.raises(ValueError, match="must be a folder, got the file"):
        checkpoint_files(folder / "last.pt")
    with pytest.raises(FileNotFoundError):
        checkpoint_files(folder / "nowhere")

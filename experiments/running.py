"""What the experiments on trained networks share: data, and training that is measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import perturb_nc as pnc
from perturb_nc import CollapseMonitor, collect_statistics, nearest_mean_scores
from perturb_nc.measure import read_epochs
from perturb_nc.networks import Dataset, EpochRecord, TrainingConfig, batches, load_dataset, train

BATCH = 250


def data_for(
    name: str, samples: int | None, device: str = "cpu", *, split: str = "train"
) -> Dataset:
    """A data set on the device; the first `samples` of it, or all."""
    data = load_dataset(name, split=split)
    if samples is not None:
        data = Dataset(data.name, data.inputs[:samples], data.labels[:samples], data.num_classes)
    return data.to(device)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained network, its metrics at every epoch, and its layers at the end."""

    epochs: list[dict[str, Any]]
    statistics: dict[str, pnc.ClassStatistics]
    measured: Mapping[str, Any]  # the arguments of the measurement

    def record(self, model: nn.Module, train: Dataset, test: Dataset) -> dict[str, Any]:
        """Metrics per epoch and at the end, with nearest-class-mean accuracy on both splits."""
        scores = {
            split: nearest_mean_scores(
                model, list(batches(data, BATCH)), self.statistics, **self.measured
            )
            for split, data in (("train", train), ("test", test))
        }
        return {
            "epochs": self.epochs,
            "final": {
                name: pnc.collapse_metrics(s).as_dict() for name, s in self.statistics.items()
            },
            "nearest_mean": {
                split: {
                    name: {"accuracy": s.accuracy, "against_network": s.against_network}
                    for name, s in of_split.items()
                }
                for split, of_split in scores.items()
            },
            "test_accuracy": accuracy(model, test),
        }


def trained(
    model: nn.Module,
    data: Dataset,
    config: TrainingConfig,
    files: Path,
    *,
    monitored: int | None = None,
    layers: Sequence[str] | None = None,
    reduce: str = "pool",
    weights: Mapping[str, str] | None = None,
    at: str = "output",
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> Trained:
    """Train with a monitor on the first `monitored` samples; measure all samples at the end.

    `files` with the suffixes .pt and .jsonl keep the run, which goes on from them if interrupted;
    `kept` removes them when the result is written. `on_epoch` is called after the monitor; what it
    raises ends the run, which then repeats that epoch.
    """
    part = Dataset(data.name, data.inputs[:monitored], data.labels[:monitored], data.num_classes)
    path = files.with_suffix(".jsonl")
    measured = {"layers": layers, "reduce": reduce, "at": at}
    loader = list(batches(part, BATCH))
    monitor = CollapseMonitor(model, loader, path=path, weights=weights, **measured)

    def measure(record: EpochRecord) -> None:
        monitor.on_epoch(record)
        print(f"{files.name} {record}", flush=True)
        if on_epoch is not None:
            on_epoch(record)

    train(model, data, config, checkpoint=files.with_suffix(".pt"), on_epoch=measure)
    statistics = collect_statistics(model, batches(data, BATCH), **measured)
    on_cpu = {name: s.to("cpu") for name, s in statistics.items()}
    return Trained([_rounded(r) for r in read_epochs(path)], on_cpu, measured)


@torch.no_grad()
def accuracy(model: nn.Module, data: Dataset) -> float:
    """Share of samples classified right, in eval mode."""
    model.eval()
    hits = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches(data, BATCH))
    return hits / len(data)


def _rounded(value: Any) -> Any:
    """Six significant digits: files of metrics per epoch are large otherwise."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value

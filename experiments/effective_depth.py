"""Effective depth: the first layer whose class means classify all (Galanti et al. 2022).

MLPs with batch norm of several depths L. Claim under test: the first layer at which the
nearest-class-mean error on the training set is at most ε does not depend on L for L >= 12.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for, trained
from perturb_nc.metrics import effective_depth
from perturb_nc.networks import MLP, TrainingConfig
from perturb_nc.storage import write_json

FOLDER = RESULTS / "effective_depth"


@dataclass(frozen=True)
class Config:
    """The setting for a CPU."""

    data: tuple[str, ...] = ("mnist",)
    depths: tuple[int, ...] = (4, 8, 12, 16, 20)
    width: int = 128
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=8, learning_rate=0.1, milestones=(5, 7), loss="cross_entropy"
        )
    )
    epsilons: tuple[float, ...] = (0.005, 0.01, 0.02, 0.05)
    samples: int | None = None
    monitored: int | None = 1_000
    seeds: tuple[int, ...] = (0, 1)


def full() -> Config:
    """Longer training, wider layers, more data sets. For a GPU."""
    base = Config()
    training = replace(base.training, epochs=500, milestones=(60, 100, 300, 400))
    return replace(
        base, data=("mnist", "fashion_mnist", "cifar10"), width=300, training=training,
        depths=(4, 8, 10, 12, 14, 16, 18, 20), epsilons=(0.0005, 0.002, *base.epsilons),
        seeds=(0, 1, 2),
    )  # fmt: skip


def one(config: Config, name: str, depth: int, seed: int, path: Path, device: str) -> Any:
    """Train one network; nearest-class-mean accuracy and metrics of every layer."""
    data = data_for(name, config.samples, device)
    test = data_for(name, config.samples, device, split="test")
    torch.manual_seed(seed)
    widths = (config.width,) * depth
    model = MLP(
        data.inputs[0].numel(), widths, data.num_classes, batch_norm=True, bias_last=True
    ).to(device)
    layers = [f"blocks.{i}" for i in range(depth)]
    training = replace(config.training, seed=seed)
    run = trained(model, data, training, path, monitored=config.monitored, layers=layers)
    record = run.record(model, data, test)
    final = record.pop("epochs")[-1]  # the layers of every epoch would be most of the file
    return {
        "data": name,
        "depth": depth,
        "seed": seed,
        "train_accuracy": final["accuracy"],
        **record,
    }


def depths(run: dict[str, Any], epsilons: tuple[float, ...]) -> dict[str, int | None]:
    """ε → number of the first layer with that error or less, from 1."""
    scores = {n: s["accuracy"] for n, s in run["nearest_mean"]["train"].items()}
    first = {f"{epsilon:g}": effective_depth(scores, epsilon) for epsilon in epsilons}
    return {e: None if name is None else list(scores).index(name) + 1 for e, name in first.items()}


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "digits, two depths", "long training, for a GPU")
    config = full() if chosen.full else Config()
    if chosen.quick:
        training = replace(config.training, epochs=6, milestones=(4,))
        config = replace(
            config, data=("digits",), depths=(2, 4), width=32, training=training, seeds=(0,),
            epsilons=(0.05, 0.1),
        )  # fmt: skip
    if is_finished(chosen.output / "result.json", config):
        return
    folder = runs_folder(chosen.output, config)
    runs = [
        kept(
            folder / f"{data}-{depth}-seed{seed}.json",
            lambda path, args=(data, depth, seed): one(config, *args, path, chosen.device),
        )
        for seed in config.seeds
        for data in config.data
        for depth in config.depths
    ]
    table = [
        {
            "data": run["data"],
            "depth": run["depth"],
            "seed": run["seed"],
            "train_accuracy": run["train_accuracy"],
            "test_accuracy": run["test_accuracy"],
            "effective_depth": depths(run, config.epsilons),
        }
        for run in runs
    ]
    result = {"manifest": manifest(config), "table": table, "runs": runs}
    write_json(chosen.output / "result.json", result)
    for row in table:
        print(row)


if __name__ == "__main__":
    main()

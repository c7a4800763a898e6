"""A residual network with batch norm whose last stage is nine blocks of one width, on CIFAR-10.

The layers of one width and one basis that the central path is about, in a network that classifies
images: ResNet, stages of 1, 1 and 9 blocks, 64 features pooled over space in the last. With the
squared loss without a bias (the near-collapse model's) and with cross-entropy. What is kept are the
class statistics of the last stage over all training images (float32).
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for, trained
from perturb_nc.networks import ResNet, TrainingConfig
from perturb_nc.storage import write_json

FOLDER = RESULTS / "equal_width"


@dataclass(frozen=True)
class Config:
    """Narrow, and few epochs: about half an hour for each loss on a CPU."""

    losses: tuple[str, ...] = ("mse", "cross_entropy")
    stages: tuple[int, ...] = (1, 1, 9)
    width: int = 16
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    samples: int | None = None
    monitored: int | None = 1_000
    seed: int = 0


def one(config: Config, loss: str, path: Path, device: str) -> Any:
    """Train and measure; the statistics are kept beside the folder of the runs."""
    data, test = (data_for("cifar10", config.samples, device, split=s) for s in ("train", "test"))
    torch.manual_seed(config.seed)
    model = ResNet(
        data.inputs.shape[1],
        data.num_classes,
        stages=config.stages,
        width=config.width,
        bias_last=loss == "cross_entropy",
    ).to(device)
    training = TrainingConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        schedule="one_cycle",
        weight_decay=config.weight_decay,
        loss=loss,
        precision="bfloat16",
        channels_last=True,
        seed=config.seed,
    )
    count = len(model.blocks)
    layers = [f"blocks.{i}" for i in range(count - config.stages[-1], count)]
    run = trained(
        model, data, training, path, monitored=config.monitored, layers=layers,
        weights={layers[-1]: "head"},
    )  # fmt: skip
    notes = {"data": f"cifar10, {len(data)} training images", "loss": loss}
    target = path.parents[1] / f"{path.stem}.safetensors"
    pnc.save_layers(run.statistics, target, notes, dtype=torch.float32)
    record = run.record(model, data, test)
    return {"loss": loss, "train_accuracy": record["epochs"][-1]["accuracy"], **record}


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two blocks, 200 images, two epochs")
    config = Config()
    if chosen.quick:
        config = replace(config, losses=("mse",), stages=(1, 2), width=4, epochs=2, samples=200)
    if is_finished(chosen.output / "result.json", config):
        return
    folder = runs_folder(chosen.output, config)
    runs = [
        kept(
            folder / f"resnet-cifar10-{loss}-seed{config.seed}.json",
            lambda path, a=(config, loss): one(*a, path, chosen.device),
        )
        for loss in config.losses
    ]
    write_json(chosen.output / "result.json", {"manifest": manifest(config), "runs": runs})
    for run in runs:
        print(f"{run['loss']}: train {run['train_accuracy']:.3f}, test {run['test_accuracy']:.3f}")
        for name, metrics in run["final"].items():
            print(f"  {name} ÑC1 {metrics['nc1_trace']:.3f} NC1 {metrics['nc1']:.3f}")


if __name__ == "__main__":
    main()

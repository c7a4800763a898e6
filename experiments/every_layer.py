"""Every layer of four architectures trained on all images of CIFAR-10 and Fashion-MNIST.

A 10-layer MLP, a residual MLP, a ConvNet and a ResNet-18, with the squared loss without a bias (the
near-collapse model's) and the same weight decay everywhere. What is kept are the class statistics
of every layer over all training images (float32), for use without training, and the metrics of
every layer at every epoch. Convolutional features are pooled over space.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for, trained
from perturb_nc.networks import MLP, ConvNet, Dataset, ResidualMLP, ResNet, TrainingConfig
from perturb_nc.storage import write_json

FOLDER = RESULTS / "every_layer"


@dataclass(frozen=True)
class Network:
    """One architecture: `depth` in blocks, a stage for the ResNet."""

    kind: str
    width: int
    depth: int
    epochs: int
    learning_rate: float = 0.05
    batch_norm: bool = True

    def build(self, data: Dataset) -> nn.Module:
        """The untrained network, without a bias in its last layer."""
        norm = {"batch_norm": self.batch_norm}
        if self.kind == "mlp":
            widths = (self.width,) * self.depth
            return MLP(data.inputs[0].numel(), widths, data.num_classes, **norm)
        if self.kind == "residual_mlp":
            size = data.inputs[0].numel()
            return ResidualMLP(size, self.width, self.depth, data.num_classes, **norm)
        channels = data.inputs.shape[1]
        if self.kind == "convnet":
            return ConvNet(
                channels, data.num_classes, width=self.width, num_blocks=self.depth, **norm
            )
        stages = (self.depth,) * 4
        return ResNet(channels, data.num_classes, stages=stages, width=self.width, **norm)


@dataclass(frozen=True)
class Config:
    """The setting for a CPU: narrow networks and few epochs, at most eight minutes each."""

    data: tuple[str, ...] = ("cifar10", "fashion_mnist")
    networks: tuple[Network, ...] = (
        Network("mlp", 256, 10, epochs=30),
        Network("residual_mlp", 256, 5, epochs=30, learning_rate=0.02, batch_norm=False),
        Network("convnet", 32, 8, epochs=24),
        Network("resnet18", 16, 2, epochs=7),
    )
    batch_size: int = 128
    weight_decay: float = 5e-4
    samples: int | None = None
    monitored: int | None = 2_000
    seeds: tuple[int, ...] = (0,)


def full() -> Config:
    """Published widths, and training to the terminal phase. For a GPU."""
    networks = (
        Network("mlp", 1024, 10, epochs=350),
        Network("residual_mlp", 1024, 5, epochs=350, learning_rate=0.02, batch_norm=False),
        Network("convnet", 128, 18, epochs=350),
        Network("resnet18", 64, 2, epochs=160),
    )
    return replace(Config(), networks=networks, monitored=5_000)


def one(config: Config, network: Network, name: str, seed: int, path: Path, device: str) -> Any:
    """Train and measure one network; its statistics are kept beside the folder of the runs."""
    data, test = (data_for(name, config.samples, device, split=s) for s in ("train", "test"))
    torch.manual_seed(seed)
    model = network.build(data).to(device)
    images = network.kind in ("convnet", "resnet18")
    training = TrainingConfig(
        epochs=network.epochs,
        batch_size=config.batch_size,
        learning_rate=network.learning_rate,
        schedule="one_cycle",
        weight_decay=config.weight_decay,
        precision="bfloat16" if images else "float32",
        channels_last=images,
        seed=seed,
    )
    first = [n for n in ("embed", "stem") if hasattr(model, n)]
    layers = [*first, *(f"blocks.{i}" for i in range(len(model.blocks)))]
    run = trained(
        model, data, training, path, monitored=config.monitored, layers=layers,
        weights={layers[-1]: "head"},
    )  # fmt: skip
    notes = {"network": repr(network), "data": f"{name}, {len(data)} training images"}
    target = path.parents[1] / f"{path.stem}.safetensors"
    pnc.save_layers(run.statistics, target, notes, dtype=torch.float32)
    record = run.record(model, data, test)
    return {
        "kind": network.kind,
        "data": name,
        "seed": seed,
        "samples": len(data),
        "parameters": sum(p.numel() for p in model.parameters()),
        "train_accuracy": record["epochs"][-1]["accuracy"],
        **record,
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two MLPs on digits", "published widths, for a GPU")
    config = full() if chosen.full else Config()
    if chosen.quick:
        small = tuple(replace(n, width=16, depth=2, epochs=3) for n in config.networks[:2])
        config = replace(config, data=("digits",), networks=small)
    if is_finished(chosen.output / "result.json", config):
        return
    folder = runs_folder(chosen.output, config)
    runs = [
        kept(
            folder / f"{network.kind}-{name}-seed{seed}.json",
            lambda path, a=(network, name, seed): one(config, *a, path, chosen.device),
        )
        for seed in config.seeds
        for name in config.data
        for network in config.networks
    ]
    write_json(chosen.output / "result.json", {"manifest": manifest(config), "runs": runs})
    for run in runs:
        last = list(run["final"].values())[-1]
        print(
            f"{run['kind']} {run['data']}: train {run['train_accuracy']:.3f}, "
            f"test {run['test_accuracy']:.3f}, NC1 {last['nc1']:.3f}, "
            f"ÑC1 {last['nc1_trace']:.3f}, NC2 {last['nc2_etf']:.3f}"
        )


if __name__ == "__main__":
    main()

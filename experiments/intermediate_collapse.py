"""The collapse of every layer over training (Parker et al. 2023), and collapse depth per data set.

SGD with batch size 16, no weight decay, a one-cycle schedule and the squared loss with a bias. The
paper's maximum learning rate 0.1 belongs to the mean over samples AND outputs; the loss here is
half the sum over outputs, so that the same steps are taken at 0.1 · 2/K = 0.02. Convolutional
features are pooled over space.
"""

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for, trained
from perturb_nc.networks import MLP, VGG, ResNet, TrainingConfig
from perturb_nc.networks.convolutional import VGG_STAGES
from perturb_nc.networks.resnet import RESNET_STAGES
from perturb_nc.storage import write_json

FOLDER = RESULTS / "intermediate_collapse"


@dataclass(frozen=True)
class Config:
    """The networks, each (kind, activation, data), and how they are trained."""

    networks: tuple[tuple[str, str, str], ...] = (
        ("mlp6", "relu", "mnist"),
        ("mlp6", "relu", "fashion_mnist"),
        ("mlp6", "relu", "cifar10"),
        ("mlp6", "tanh", "fashion_mnist"),
    )
    width: int = 256  # of the MLP, and 4 times that of the first stage of convolutional networks
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=6, batch_size=16, learning_rate=0.02, schedule="one_cycle", weight_decay=0.0
        )
    )
    samples: int | None = None
    monitored: int | None = 5_000
    seeds: tuple[int, ...] = (0,)


def full() -> Config:
    """The architectures and activations of the paper. For a GPU."""
    base = Config()
    networks = tuple(
        (kind, activation, data)
        for kind in ("mlp6", "vgg11", "resnet18")
        for activation in ("relu", "leaky_relu", "tanh", "silu")
        for data in ("mnist", "fashion_mnist", "cifar10")
    )
    training = replace(base.training, epochs=50, precision="bfloat16")
    return replace(base, networks=networks, training=training, seeds=(0, 1, 2))


def network(kind: str, activation: str, shape: torch.Size, classes: int, width: int) -> nn.Module:
    """An untrained network with a bias in its last layer."""
    if kind == "mlp6":
        widths, options = (width,) * 6, {"activation": activation, "bias_last": True}
        return MLP(shape.numel(), widths, classes, **options)
    common = {"width": width // 4, "activation": activation, "bias_last": True}
    if kind == "vgg11":
        return VGG(shape[0], classes, stages=VGG_STAGES[11], **common)
    return ResNet(shape[0], classes, stages=RESNET_STAGES[18], **common)


def one(config: Config, which: tuple[str, str, str], seed: int, path: Path, device: str) -> Any:
    """Train and measure one network."""
    kind, activation, name = which
    data = data_for(name, config.samples, device)
    test = data_for(name, config.samples, device, split="test")
    torch.manual_seed(seed)
    model = network(kind, activation, data.inputs.shape[1:], data.num_classes, config.width)
    training = replace(config.training, seed=seed)
    layers = [n for n, _ in model.named_modules() if n == "stem" or n.startswith("blocks.")]
    layers = [n for n in layers if n.count(".") <= 1]
    run = trained(model.to(device), data, training, path, monitored=config.monitored, layers=layers)
    about = {"kind": kind, "activation": activation, "data": name, "seed": seed}
    return {**about, **run.record(model, data, test)}


def summary(run: dict[str, Any]) -> dict[str, Any]:
    """What bears on the three claims, from the last measurement."""
    layers = list(run["final"].values())
    nc1 = [layer["nc1_trace"] for layer in layers]
    angles = [layer["nc2_equiangular"] for layer in layers]
    half = (len(layers) - 1) // 2  # steps from layer to layer: at most half of them
    drop = math.log(nc1[0] / nc1[-1])
    names = list(run["final"])
    depth = next((i + 1 for i, layer in enumerate(layers) if layer["cdnv"] < 0.2), None)
    return {
        "kind": run["kind"],
        "activation": run["activation"],
        "data": run["data"],
        "seed": run["seed"],
        "train_accuracy": run["epochs"][-1]["accuracy"],
        "test_accuracy": run["test_accuracy"],
        "nc1_trace": nc1,
        "nc2_equiangular": angles,
        "log_drop_in_first_half_of_steps": math.log(nc1[0] / nc1[half]) / drop if drop else None,
        "angles_fall": f"{sum(b < a for a, b in pairwise(angles))} of {len(angles) - 1}",
        "collapse_depth": depth,
        "ncc_train": [run["nearest_mean"]["train"][name]["accuracy"] for name in names],
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two MLPs on digits", "as in the paper, for a GPU")
    config = full() if chosen.full else Config()
    if chosen.quick:
        training = replace(config.training, epochs=2)
        networks = (("mlp6", "relu", "digits"), ("mlp6", "silu", "digits"))
        config = replace(config, networks=networks, width=32, training=training)
    if is_finished(chosen.output / "result.json", config):
        return
    folder = runs_folder(chosen.output, config)
    runs = [
        kept(
            folder / f"{'-'.join(which)}-seed{seed}.json",
            lambda path, which=which, seed=seed: one(config, which, seed, path, chosen.device),
        )
        for seed in config.seeds
        for which in config.networks
    ]
    summaries = [summary(run) for run in runs]
    result = {"manifest": manifest(config), "summaries": summaries, "runs": runs}
    write_json(chosen.output / "result.json", result)
    for row in summaries:
        print({key: value for key, value in row.items() if not isinstance(value, list)})


if __name__ == "__main__":
    main()

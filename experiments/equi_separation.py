"""The law of equi-separation (He & Su 2023): where it shows in small networks, and where not.

D = tr(Σ_W Σ_B†) of the inputs and of every hidden layer of MLPs of width 100 on Fashion-MNIST, with
batch norm and without, linear ones (batch norm and activations left out) and deep ones. The law
says that log D is a line in the layer number: Pearson's r near -1.

He & Su train on more images, with Adam, for 600 epochs, and stop at the end of training; here it is
200 images a class, SGD and 100 epochs, from which the numbers differ (docs/depth.md says how).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import accuracy, data_for
from perturb_nc.networks import MLP, TrainingConfig, batches, train
from perturb_nc.storage import replacing, write_json
from perturb_nc.study import separation_law

FOLDER = RESULTS / "equi_separation"


@dataclass(frozen=True)
class Config:
    """Two or three minutes on one thread."""

    data: str = "fashion_mnist"
    kinds: tuple[str, ...] = ("batch norm", "without", "linear")
    depths: tuple[int, ...] = (6, 18)
    seeds: tuple[int, ...] = (0, 1, 2)
    width: int = 100
    samples: int = 2000
    epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 0.03
    weight_decay: float = 5e-4


def network(kind: str, inputs: int, depth: int, config: Config, classes: int) -> MLP:
    """An MLP of a kind; a linear one has no activations."""
    model = MLP(
        inputs, [config.width] * depth, classes, batch_norm=kind == "batch norm", bias_last=True
    )
    if kind == "linear":
        for block in model.blocks:
            block.activation = nn.Identity()
    return model


def run(config: Config, kind: str, depth: int, seed: int) -> dict[str, Any]:
    """D of every layer of a trained network, and the law that fits best."""
    data = data_for(config.data, config.samples)
    torch.manual_seed(seed)
    model = network(kind, data.inputs[0].numel(), depth, config, data.num_classes)
    epochs = config.epochs
    training = TrainingConfig(
        epochs=epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        milestones=(epochs // 2, 3 * epochs // 4) if epochs >= 4 else (),
        weight_decay=config.weight_decay,
        loss="cross_entropy",
        seed=seed,
    )
    train(model, data, training)
    names = [f"blocks.{i}" for i in range(depth)]
    loader = batches(data, 500)
    layers = pnc.collect_statistics(model, loader, layers=names)
    own = pnc.ClassStatistics.from_features(data.inputs.flatten(1), data.labels)
    separability = [pnc.collapse_metrics(s).nc1_parker for s in (own, *layers.values())]
    law = separation_law(separability)
    return {
        "kind": kind,
        "depth": depth,
        "seed": seed,
        "separability": [float(f"{d:.5g}") for d in separability],
        **asdict(law),
        "train_accuracy": accuracy(model, data),
    }


def runs(config: Config, folder: Path) -> Iterator[dict[str, Any]]:
    """Every network; those that are there are not trained again."""
    for kind, depth, seed in product(config.kinds, config.depths, config.seeds):
        name = f"{kind.replace(' ', '_')}-{depth}-seed{seed}.json"
        own = kind, depth, seed
        yield kept(folder / name, lambda _, own=own: run(config, *own))


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: by kind and depth, medians over the seeds with their ranges."""
    lines = ["| network | hidden layers | seeds | r | ρ | curvature | D, first seed | accuracy |"]
    lines.append("|---" * 8 + "|")
    for kind, depth in dict.fromkeys((row["kind"], row["depth"]) for row in found):
        own = [row for row in found if (row["kind"], row["depth"]) == (kind, depth)]
        cells = [kind, str(depth), str(len(own))]
        for name in ("correlation", "rate", "curvature"):
            values = [row[name] for row in own]
            low, middle, high = min(values), float(np.median(values)), max(values)
            cells.append(f"{middle:.3f} ({low:.3f} to {high:.3f})")
        cells.append(" ".join(f"{d:.3g}" for d in own[0]["separability"]))
        cells.append(f"{min(row['train_accuracy'] for row in own):.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "digits: one seed of two layers, two epochs")
    config = Config()
    if chosen.quick:
        few = {"depths": (2,), "seeds": (0,), "width": 20, "samples": 200, "epochs": 2}
        config = Config(data="digits", **few)
    if is_finished(chosen.output / "result.json", config):
        return
    found = list(runs(config, runs_folder(chosen.output, config)))
    write_json(chosen.output / "result.json", {"manifest": manifest(config), "runs": found})
    text = table(found)
    with replacing(chosen.output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()

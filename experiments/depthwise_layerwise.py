"""Layer-wise training of an MLP: NC1 and ÑC1 after each added layer (Tirer et al. 2023, Figure 2).

Each layer is trained with a head of its own on the frozen features of the layers before, so that
these are the H0 of the near-collapse model, and the layer's own features its H. The squared loss
without a bias, as in the model.
"""

import shutil
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for
from perturb_nc import collect_statistics
from perturb_nc.networks import MLP, TrainingConfig, batches, train_layerwise
from perturb_nc.storage import write_json

FOLDER = RESULTS / "depthwise_layerwise"


@dataclass(frozen=True)
class Config:
    """The networks, and how each of their layers is trained."""

    data: tuple[str, ...] = ("cifar10", "fashion_mnist")
    depth: int = 10
    width: int = 256
    batch_norm: bool = False
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=12, learning_rate=0.01, milestones=(8, 11), weight_decay=5e-4
        )
    )
    seeds: tuple[int, ...] = (0, 1)
    samples: int | None = None
    kept: str = "cifar10-seed0"  # the run whose statistics are kept


def layerwise(config: Config, data_name: str, seed: int, path: Path, device: str) -> Any:
    """Metrics of every layer of one network, as it is added."""
    data = data_for(data_name, config.samples, device)
    name = f"{data_name}-seed{seed}"
    torch.manual_seed(seed)
    widths = (config.width,) * config.depth
    model = MLP(data.inputs[0].numel(), widths, data.num_classes, batch_norm=config.batch_norm).to(
        device
    )
    layers: dict[str, pnc.ClassStatistics] = {}
    rows = []

    def measure(index, stage, inputs, history) -> None:
        found = collect_statistics(stage, batches(inputs, 1024), layers=["block"])["block"]
        layers[f"blocks.{index}"] = found.to("cpu")
        metrics = pnc.collapse_metrics(found, stage.head.weight.detach())
        last = history[-1]
        rows.append({"layer": index + 1, **asdict(last), **metrics.as_dict()})
        print(f"{name} layer {index + 1}: accuracy {last.accuracy:.4f}", flush=True)

    flat = replace(data, inputs=data.inputs.flatten(1))
    inputs = pnc.ClassStatistics.from_features(flat.inputs, flat.labels)
    checkpoints = path.with_suffix("")
    training = replace(config.training, seed=seed)
    train_layerwise(model.blocks, flat, training, checkpoint_dir=checkpoints, on_layer=measure)
    shutil.rmtree(checkpoints)
    if name == config.kept:
        pnc.save_layers(layers, path.parents[1] / f"{name}.safetensors", dtype=torch.float32)
    return {
        "data": data_name,
        "seed": seed,
        "inputs": pnc.collapse_metrics(inputs).as_dict(),
        "layers": rows,
    }


def falls(rows: list[dict[str, Any]], metric: str) -> str:
    """How many added layers lower a metric, of how many."""
    values = [row[metric] for row in rows]
    down = sum(b < a for a, b in pairwise(values))
    return f"{down} of {len(values) - 1}"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "digits, three layers, one seed")
    config = Config()
    if chosen.quick:
        training = replace(config.training, epochs=5, milestones=(3,))
        config = Config(("digits",), 3, 64, training=training, seeds=(0,))
    if is_finished(chosen.output / "result.json", config):
        return
    folder = runs_folder(chosen.output, config)
    runs = [
        kept(
            folder / f"{data}-seed{seed}.json",
            lambda path, data=data, seed=seed: layerwise(config, data, seed, path, chosen.device),
        )
        for seed in config.seeds
        for data in config.data
    ]
    write_json(chosen.output / "result.json", {"manifest": manifest(config), "runs": runs})
    for run in runs:
        counts = {m: falls(run["layers"], m) for m in ("nc1", "nc1_trace", "nc2_etf")}
        print(run["data"], run["seed"], counts)


if __name__ == "__main__":
    main()

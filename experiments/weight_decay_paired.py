"""Weight decay of the last or of the feature layers, with seeds enough to tell their effects apart.

The claim of `experiments.weight_decay`, asked of MLPs small enough for many seeds in the terminal
phase, where every training image is classified right. For each seed five networks start from the
same weights and see the same batches; what differs is a weight decay. So its effect is
log(metric / metric of the baseline with the same seed), whose mean and standard error over seeds
are reported. All networks of some seeds are trained at once.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch

import perturb_nc as pnc
from experiments.manifest import RESULTS, manifest
from experiments.running import BATCH, accuracy, data_for, kept, options, runs_folder
from experiments.weight_decay import DECAYS, contrast, effects
from perturb_nc.networks import MLP, TrainingConfig, batches, collect_statistics, train_ensemble
from perturb_nc.storage import write_json

FOLDER = RESULTS / "weight_decay_paired"
METRICS = ("nc1", "nc1_trace", "nc2_etf")


@dataclass(frozen=True)
class Setting:
    """A data set (its first `samples`), epochs to the terminal phase, and seeds."""

    data: str
    samples: int | None
    epochs: int
    seeds: int


@dataclass(frozen=True)
class Config:
    """Minutes on one CPU thread."""

    settings: tuple[Setting, ...] = (
        Setting("digits", None, 100, 12),
        Setting("fashion_mnist", 1_000, 60, 8),
    )
    widths: tuple[int, ...] = (128, 128, 128)
    losses: tuple[str, ...] = ("mse", "cross_entropy")
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(epochs=1, batch_size=64, learning_rate=0.05)
    )
    at_once: int = 4  # seeds


def one(config: Config, setting: Setting, loss: str, seeds: tuple[int, ...], device: str) -> Any:
    """Train and measure the networks of some seeds, one for each pair of weight decays."""
    data, test = (
        data_for(setting.data, setting.samples, device, split=s) for s in ("train", "test")
    )
    common = replace(
        config.training,
        loss=loss,
        epochs=setting.epochs,
        milestones=(setting.epochs // 2, setting.epochs * 3 // 4),
    )
    pairs, models, trainings = [(seed, decay) for seed in seeds for decay in DECAYS], [], []
    for seed, decay in pairs:
        features, last = DECAYS[decay]
        torch.manual_seed(seed)
        size, bias = data.inputs[0].numel(), loss == "cross_entropy"
        models.append(MLP(size, config.widths, data.num_classes, bias_last=bias).to(device))
        trainings.append(
            replace(common, weight_decay=features, last_layer_weight_decay=last, seed=seed)
        )
    histories = train_ensemble(models, data, trainings)
    layer, rows = f"blocks.{len(config.widths) - 1}", []
    for (seed, decay), model, history in zip(pairs, models, histories, strict=True):
        found = collect_statistics(model, batches(data, BATCH), layers=[layer])[layer]
        metrics = pnc.collapse_metrics(found).as_dict()
        about = {"data": data.name, "loss": loss, "decay": decay, "seed": seed, "layer": layer}
        scores = {"train_loss": history[-1].loss, "train_accuracy": accuracy(model, data)}
        scores |= {"test_accuracy": accuracy(model, test)}
        rows.append({**about, **scores, "final": {layer: metrics}})
    return rows


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Effects of the weight decays, and by how much those of the feature layers are larger."""
    return {
        "data": runs[0]["data"],
        "loss": runs[0]["loss"],
        "least_train_accuracy": min(run["train_accuracy"] for run in runs),
        "effects": {metric: effects(runs, metric) for metric in METRICS},
        "contrast": {metric: contrast(runs, metric) for metric in METRICS},
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "400 digits, three seeds")
    config = Config()
    if chosen.quick:
        config = replace(config, settings=(Setting("digits", 400, 4, 3),), widths=(16,), at_once=2)
    folder, runs, summaries = runs_folder(chosen.output, config), [], []
    for setting in config.settings:
        for loss in config.losses:
            rows: list[dict[str, Any]] = []
            for first in range(0, setting.seeds, config.at_once):
                seeds = tuple(range(first, min(first + config.at_once, setting.seeds)))
                rows += kept(
                    folder / f"{setting.data}-{loss}-seed{first}.json",
                    lambda _, a=(setting, loss, seeds): one(config, *a, chosen.device),
                )
            runs += rows
            summaries.append(summary(rows))
    result = {"manifest": manifest(config), "summaries": summaries, "runs": runs}
    write_json(chosen.output / "result.json", result)
    for row in summaries:
        print(row["data"], row["loss"], "least train accuracy", row["least_train_accuracy"])
        for kind in ("effects", "contrast"):
            for metric, found in row[kind].items():
                cells = (f"{k} {v['mean']:+.3f} ± {v['error']:.3f}" for k, v in found.items())
                print(f"  {kind} {metric}: {', '.join(cells)}")


if __name__ == "__main__":
    main()

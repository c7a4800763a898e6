"""Weight decay of the last or of the feature layers, with seeds enough to tell their effects apart.

The claim of `experiments.weight_decay`, asked of MLPs small enough for many seeds in the terminal
phase, where every training image is classified right. For each seed five networks start from the
same weights and see the same batches; what differs is a weight decay. So its effect is
log(metric / metric of the baseline with the same seed), whose mean and standard error over seeds
are reported. All networks of some seeds are trained at once.
"""

from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import BATCH, accuracy, data_for
from experiments.weight_decay import DECAYS, contrast, effects
from perturb_nc import collect_statistics
from perturb_nc.networks import MLP, TrainingConfig, batches, train_ensemble
from perturb_nc.storage import write_json

FOLDER = RESULTS / "weight_decay_paired"
METRICS = ("nc1", "nc1_trace", "nc2_etf")


@dataclass(frozen=True)
class Setting:
    """A data set (its first `samples`), a loss, and how long how many seeds are trained."""

    data: str
    loss: str
    epochs: int
    seeds: int
    samples: int | None = None
    learning_rate: float = 0.05

    @property
    def name(self) -> str:
        """Short and unique."""
        return f"{self.data}-{self.loss}-{self.epochs}"


@dataclass(frozen=True)
class Config:
    """Minutes on one CPU thread.

    With cross-entropy 100 epochs are enough to classify all, but not for the weight decay to have
    its say: per step it shrinks a weight by 1 - 10·learning_rate·5e-4. Hence the long setting.
    """

    settings: tuple[Setting, ...] = (
        Setting("digits", "mse", 100, 12),
        Setting("digits", "cross_entropy", 100, 12),
        Setting("digits", "cross_entropy", 400, 4, learning_rate=0.1),
        Setting("fashion_mnist", "mse", 60, 8, samples=1_000),
        Setting("fashion_mnist", "cross_entropy", 60, 8, samples=1_000),
    )
    widths: tuple[int, ...] = (128, 128, 128)
    batch_size: int = 64
    at_once: int = 4  # seeds


def one(config: Config, setting: Setting, seeds: tuple[int, ...], device: str) -> Any:
    """Train and measure the networks of some seeds, one for each pair of weight decays."""
    data, test = (
        data_for(setting.data, setting.samples, device, split=s) for s in ("train", "test")
    )
    common = TrainingConfig(
        epochs=setting.epochs,
        batch_size=config.batch_size,
        learning_rate=setting.learning_rate,
        loss=setting.loss,
        milestones=(setting.epochs // 2, setting.epochs * 3 // 4),
    )
    pairs, models, trainings = [(seed, decay) for seed in seeds for decay in DECAYS], [], []
    for seed, decay in pairs:
        features, last = DECAYS[decay]
        torch.manual_seed(seed)
        size, bias = data.inputs[0].numel(), setting.loss == "cross_entropy"
        models.append(MLP(size, config.widths, data.num_classes, bias_last=bias).to(device))
        trainings.append(
            replace(common, weight_decay=features, last_layer_weight_decay=last, seed=seed)
        )
    histories = train_ensemble(models, data, trainings)
    layer, rows = f"blocks.{len(config.widths) - 1}", []
    for (seed, decay), model, history in zip(pairs, models, histories, strict=True):
        found = collect_statistics(model, batches(data, BATCH), layers=[layer])[layer]
        metrics = pnc.collapse_metrics(found).as_dict()
        about = {
            "setting": setting.name,
            "data": data.name,
            "loss": setting.loss,
            "decay": decay,
            "seed": seed,
            "layer": layer,
        }
        scores = {"train_loss": history[-1].loss, "train_accuracy": accuracy(model, data)}
        scores |= {"test_accuracy": accuracy(model, test)}
        rows.append({**about, **scores, "final": {layer: metrics}})
    return rows


def summary(setting: Setting, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Effects of the weight decays, and by how much those of the feature layers are larger."""
    baseline = [run for run in runs if run["decay"] == "baseline"]
    return {
        **asdict(setting),
        "baseline": {m: fmean(run["final"][run["layer"]][m] for run in baseline) for m in METRICS},
        "least_train_accuracy": min(run["train_accuracy"] for run in runs),
        "effects": {metric: effects(runs, metric) for metric in METRICS},
        "contrast": {metric: contrast(runs, metric) for metric in METRICS},
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "400 digits, three seeds")
    config = Config()
    if chosen.quick:
        few = tuple(Setting("digits", loss, 4, 3, samples=400) for loss in ("mse", "cross_entropy"))
        config = replace(config, settings=few, widths=(16,), at_once=2)
    if is_finished(chosen.output / "result.json", config):
        return
    folder, runs, summaries = runs_folder(chosen.output, config), [], []
    for setting in config.settings:
        rows: list[dict[str, Any]] = []
        for first in range(0, setting.seeds, config.at_once):
            seeds = tuple(range(first, min(first + config.at_once, setting.seeds)))
            rows += kept(
                folder / f"{setting.name}-seed{first}.json",
                lambda _, a=(setting, seeds): one(config, *a, chosen.device),
            )
        runs += rows
        summaries.append(summary(setting, rows))
    result = {"manifest": manifest(config), "summaries": summaries, "runs": runs}
    write_json(chosen.output / "result.json", result)
    for row in summaries:
        print(
            row["data"],
            row["loss"],
            row["epochs"],
            "least train accuracy",
            row["least_train_accuracy"],
        )
        for kind in ("effects", "contrast"):
            for metric, found in row[kind].items():
                cells = (f"{k} {v['mean']:+.3f} ± {v['error']:.3f}" for k, v in found.items())
                print(f"  {kind} {metric}: {', '.join(cells)}")


if __name__ == "__main__":
    main()

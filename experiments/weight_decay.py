"""Weight decay of the last or of the feature layers, doubled or zero (Tirer et al. 2023, Fig. 3).

A ResNet is trained from one initialisation with five pairs of weight decays, with the squared loss
without a bias and with cross-entropy with a bias. Claim under test: the feature layers' weight
decay moves NC more than the last layer's. In the model λ_H stands for the former. Two seeds of a
ResNet cannot decide it; `experiments.weight_decay_paired` has more.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for, trained
from perturb_nc.networks import ResNet, TrainingConfig
from perturb_nc.storage import write_json

FOLDER = RESULTS / "weight_decay"
DECAYS = {  # of the feature layers, of the last layer
    "baseline": (5e-4, 5e-4),
    "last layer x2": (5e-4, 1e-3),
    "last layer 0": (5e-4, 0.0),
    "features x2": (1e-3, 5e-4),
    "features 0": (0.0, 5e-4),
}


@dataclass(frozen=True)
class Config:
    """The setting for a CPU: a small ResNet, and so few images that it learns them all.

    On 10,000 images the same network was at accuracy .76 after 20 epochs: far from collapse, and
    from anything the claim is about.
    """

    data: str = "cifar10"
    samples: int | None = 1_000
    stages: tuple[int, ...] = (1, 1, 1)
    width: int = 16
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=50,
            batch_size=32,
            learning_rate=0.05,
            milestones=(25, 38),
            precision="bfloat16",
            channels_last=True,
        )
    )
    losses: tuple[str, ...] = ("mse", "cross_entropy")
    decays: tuple[str, ...] = tuple(DECAYS)
    monitored: int | None = None
    seeds: tuple[int, ...] = (0, 1)


def full() -> Config:
    """The setting of the paper: ResNet-18, all images, ÷10 every 40 epochs. For a GPU."""
    base = Config()
    training = replace(base.training, epochs=160, batch_size=128, milestones=(40, 80, 120))
    return replace(
        base, samples=None, stages=(2, 2, 2, 2), width=64, training=training, monitored=5_000
    )


def one(config: Config, loss: str, decay: str, seed: int, path: Path, device: str) -> Any:
    """Train and measure one network."""
    data = data_for(config.data, config.samples, device)
    test = data_for(config.data, config.samples, device, split="test")
    torch.manual_seed(seed)
    model = ResNet(
        data.inputs.shape[1],
        data.num_classes,
        stages=config.stages,
        width=config.width,
        bias_last=loss == "cross_entropy",
    ).to(device)
    features, last = DECAYS[decay]
    training = replace(
        config.training,
        loss=loss,
        weight_decay=features,
        last_layer_weight_decay=last,
        seed=seed,
    )
    final = f"blocks.{len(model.blocks) - 1}"
    run = trained(
        model, data, training, path, monitored=config.monitored, layers=[final],
        weights={final: "head"},
    )  # fmt: skip
    if seed == config.seeds[0]:
        name = f"{path.stem}.safetensors"
        pnc.save_layers(run.statistics, path.parents[1] / name, dtype=torch.float32)
    about = {"loss": loss, "decay": decay, "seed": seed, "layer": final}
    return {**about, **run.record(model, data, test)}


def log_ratios(runs: list[dict[str, Any]], metric: str) -> dict[str, list[float]]:
    """log(metric / metric of the baseline with the same seed), for every other pair of decays."""
    value = {(run["decay"], run["seed"]): run["final"][run["layer"]][metric] for run in runs}
    seeds = sorted({run["seed"] for run in runs})
    decays = dict.fromkeys(run["decay"] for run in runs if run["decay"] != "baseline")
    return {
        decay: [math.log(value[decay, seed] / value["baseline", seed]) for seed in seeds]
        for decay in decays
    }


def effects(runs: list[dict[str, Any]], metric: str) -> dict[str, dict[str, float]]:
    """Mean over seeds of the log ratios, and its standard error."""
    return {decay: _mean(ratios) for decay, ratios in log_ratios(runs, metric).items()}


def contrast(runs: list[dict[str, Any]], metric: str) -> dict[str, dict[str, float]]:
    """|log ratio| for the feature layers less that for the last layer: positive is the claim."""
    ratios = log_ratios(runs, metric)
    return {
        change: _mean(
            [
                abs(features) - abs(last)
                for features, last in zip(
                    ratios[f"features {change}"], ratios[f"last layer {change}"], strict=True
                )
            ]
        )
        for change in ("x2", "0")
    }


def _mean(values: list[float]) -> dict[str, float]:
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"mean": fmean(values), "error": error, "seeds": len(values)}


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two pairs of decays, 600 images", "ResNet-18, for a GPU")
    config = full() if chosen.full else Config()
    if chosen.quick:
        training = replace(config.training, epochs=2, milestones=(1,))
        config = replace(
            config, samples=600, width=4, seeds=(0,), training=training, losses=("mse",),
            decays=("baseline", "features 0"), monitored=300,
        )  # fmt: skip
    if is_finished(chosen.output / "result.json", config):
        return
    folder, runs = runs_folder(chosen.output, config), []
    for seed in config.seeds:
        for loss in config.losses:
            for decay in config.decays:
                name = f"{loss}-{decay.replace(' ', '-')}-seed{seed}"
                runs.append(
                    kept(
                        folder / f"{name}.json",
                        lambda path, args=(loss, decay, seed): one(
                            config, *args, path, chosen.device
                        ),
                    )
                )
    write_json(chosen.output / "result.json", {"manifest": manifest(config), "runs": runs})
    for loss in config.losses:
        of_loss = [run for run in runs if run["loss"] == loss]
        for metric in ("nc1", "nc1_trace", "nc2_etf"):
            for decay, found in effects(of_loss, metric).items():
                print(f"{loss} {metric} {decay}: {found['mean']:+.3f} ± {found['error']:.3f}")


if __name__ == "__main__":
    main()

"""Do networks find the unconstrained features? A deep ReLU head on a trained backbone, two classes.

H_1 is the output of an MLP instead of free; the backbone has no weight decay, H_1 has the one of
the model. Full-batch Adam. The objective is then that of the deep model, bounded below by the
closed form, and the DNC metrics of every layer of the head are recorded over training.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import finished_parts, manifest
from perturb_nc.networks import MLP, load_dataset
from perturb_nc.storage import write_json

OUTPUT = RESULTS / "trained_head.json"


@dataclass(frozen=True)
class Config:
    """(data set, samples a class); λ of each layer of the head, n·λ_H of H_1."""

    data: tuple[tuple[str, int], ...] = (("digits", 130), ("mnist", 100))
    classes: tuple[int, int] = (3, 8)
    depths: tuple[int, ...] = (3, 5)
    width: int = 64
    backbone: tuple[int, ...] = (128, 128)
    decay: float = 5e-3
    feature_decay: float = 5e-2
    learning_rate: float = 1e-3
    steps: int = 5000
    records: int = 30
    seeds: tuple[int, ...] = (0, 1)


def two_classes(name: str, samples: int, classes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The first samples of each class: flat inputs, labels 0 and 1."""
    data = load_dataset(name)
    rows = [(data.labels == c).nonzero().flatten()[:samples] for c in classes]
    if min(map(len, rows)) < samples:
        raise ValueError(f"{name} has fewer than {samples} samples of a class of {classes}")
    return data.inputs[torch.cat(rows)].flatten(1).double(), torch.arange(2).repeat_interleave(
        samples
    )


def run(config: Config, name: str, samples: int, depth: int, seed: int) -> dict[str, Any]:
    """One network."""
    inputs, labels = two_classes(name, samples, config.classes)
    torch.manual_seed(seed)
    backbone = MLP(inputs.shape[1], config.backbone, config.width).double()
    lambda_h = config.feature_decay / samples
    head = pnc.deep.DeepUFM(
        labels, [config.width] * depth, lambdas=config.decay, lambda_h=lambda_h, seeds=[seed]
    )
    optimum = pnc.deep.deep_collapse_optimum(
        num_layers=depth,
        num_classes=2,
        samples_per_class=samples,
        lambdas=config.decay,
        lambda_h=lambda_h,
    ).objective
    parameters = [*backbone.parameters(), *head.weights]
    optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps, 1e-6)
    points = torch.logspace(0, math.log10(config.steps), config.records).round().int().tolist()
    wanted, history = {0, *points}, []
    for step in range(config.steps + 1):
        features = backbone(inputs)
        value = head.problem.objective(features[None], list(head.weights))
        if step in wanted:
            with torch.no_grad():
                head.features.copy_(features[None])
                accuracy = (head()[0].argmax(1) == labels).double().mean().item()
            layers = [vars(layer) for layer in head.collapse()]
            excess = value.item() - optimum
            history.append({"step": step, "excess": excess, "accuracy": accuracy, "layers": layers})
        if step < config.steps:
            optimizer.zero_grad()
            value.sum().backward()
            optimizer.step()
            schedule.step()
    return {
        "data": name,
        "samples_per_class": samples,
        "depth": depth,
        "seed": seed,
        "optimum": optimum,
        "history": history,
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, OUTPUT, "digits, one seed, few steps")
    config = Config()
    if chosen.quick:
        config = replace(
            config,
            data=(("digits", 40),),
            depths=(3,),
            width=32,
            backbone=(64,),
            steps=300,
            records=8,
            seeds=(0,),
        )
    parts = finished_parts(chosen.output, config)
    for name, samples in config.data:
        for depth in config.depths:
            for seed in config.seeds:
                key = f"{name},L={depth},seed={seed}"
                if key not in parts:
                    parts[key] = run(config, name, samples, depth, seed)
                    write_json(chosen.output, {"manifest": manifest(config), "parts": parts})
                last = parts[key]["history"][-1]
                dnc1 = " ".join(f"{layer['dnc1']:.1e}" for layer in last["layers"])
                dnc2 = " ".join(f"{layer['dnc2']:.3f}" for layer in last["layers"])
                print(
                    f"{key}: f - f* = {last['excess']:.2e} (f* = {parts[key]['optimum']:.4f}), "
                    f"DNC1 {dnc1}, DNC2 {dnc2}",
                    flush=True,
                )
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()

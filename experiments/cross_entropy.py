"""Networks trained on cross-entropy: does the near-collapse model do better with their own loss?

Residual MLPs on digits, cross-entropy; the model puts a block's output H after the output H0 of the
block before (scaled to |H0|²/N = 1), with the squared loss and with cross-entropy, λ_H = 0:

- known: λ_W is K times the weight decay, in the units of the scaled features; β is set by NC1;
- free: λ_W and β on a grid, set by NC1 and ÑC1 together. At the ends of the grid means no fit.

What did not set a parameter is predicted. The rival says that H0 does not change.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from perturb_nc.networks import ResidualMLP, TrainingConfig, batches, load_dataset, train
from perturb_nc.storage import replacing, write_json

FOLDER = RESULTS / "cross_entropy"
COMPARED = ("nc1", "nc1_trace", "nc1_span", "nc2_etf", "cdnv", "growth")
LOSSES = ("squared", "cross_entropy")


@dataclass(frozen=True)
class Config:
    """(weight decay, batch norm) of the networks, and the grids of λ_W and β (log10)."""

    networks: tuple[tuple[float, bool], ...] = ((1e-3, False),)
    width: int = 64
    blocks: int = 5
    epochs: int = 150
    learning_rate: float = 0.05
    known_beta: tuple[float, float, int] = (-2.0, 3.0, 26)
    free_lambda_w: tuple[float, float, int] = (-5.0, 0.0, 9)
    free_beta: tuple[float, float, int] = (-2.0, 3.0, 9)
    seed: int = 0


def one(config: Config, weight_decay: float, batch_norm: bool) -> Any:
    """Train a network, predict every block from the one before."""
    data = load_dataset("digits")
    torch.manual_seed(config.seed)
    size, k = data.inputs[0].numel(), data.num_classes
    model = ResidualMLP(size, config.width, config.blocks, k, batch_norm=batch_norm)
    epochs = config.epochs
    history = train(
        model,
        data,
        TrainingConfig(
            epochs=epochs,
            batch_size=64,
            learning_rate=config.learning_rate,
            milestones=(epochs // 2, 3 * epochs // 4) if epochs >= 4 else (),
            weight_decay=weight_decay,
            loss="cross_entropy",
            seed=config.seed,
        ),
    )
    names = ["embed", *(f"blocks.{i}" for i in range(config.blocks))]
    features, labels = pnc.collect_features(model, batches(data, 1024), layers=names)
    pairs = {
        after: pair(config, features[before], features[after], labels, k * weight_decay)
        for before, after in pairwise(names)
    }
    return {
        "weight_decay": weight_decay,
        "batch_norm": batch_norm,
        "train_accuracy": history[-1].accuracy,
        "pairs": pairs,
    }


def pair(
    config: Config, before: Tensor, after: Tensor, labels: Tensor, lambda_w: float
) -> dict[str, Any]:
    """Both models and the rival on one block."""
    size = before.double().square().sum(1).mean()
    x, y = before.double() / size.sqrt(), after.double() / size.sqrt()
    reference = pnc.ClassStatistics.from_features(x, labels)
    measured = outcome(pnc.ClassStatistics.from_features(y, labels), reference)
    known = lambda_w / size.item()
    record: dict[str, Any] = {
        "measured": measured,
        "unchanged": outcome(reference, reference),
        "known_lambda_w": known,
    }
    for loss in LOSSES:
        predict = predictor(loss, x, labels, reference)
        record[loss] = {
            "known": best(predict, [known], grid(config.known_beta), measured, ("nc1",)),
            "free": best(
                predict, grid(config.free_lambda_w), grid(config.free_beta), measured,
                ("nc1", "nc1_trace"),
            ),
        }  # fmt: skip
    return record


def predictor(
    loss: str, features: Tensor, labels: Tensor, reference: pnc.ClassStatistics
) -> Callable[[float, float], dict[str, Any]]:
    """(λ_W, β) → metrics of the optimum, with a bias as the networks have."""

    def predict(lambda_w: float, beta: float) -> dict[str, Any]:
        strengths = {"lambda_w": lambda_w, "lambda_h": 0.0, "beta": beta, "bias": True}
        if loss == "squared":
            solution = pnc.minimize(pnc.NearCollapseProblem(reference, **strengths))
        else:
            solution = pnc.minimize(pnc.CrossEntropyProblem(features, labels, **strengths))
        return {
            "lambda_w": lambda_w,
            "beta": beta,
            "status": solution.status.name,
            "spectral_ratio": solution.certificate.spectral_ratio,
            **outcome(solution.statistics, reference),
        }

    return predict


def outcome(statistics: pnc.ClassStatistics, reference: pnc.ClassStatistics) -> dict[str, float]:
    """What is compared; growth is tr Σ_B over that of H0."""
    metrics = pnc.collapse_metrics(statistics).as_dict()
    growth = statistics.between.trace() / reference.between.trace()
    return {**{name: metrics[name] for name in COMPARED[:-1]}, "growth": growth.item()}


def grid(ends: tuple[float, float, int]) -> list[float]:
    """Values evenly spaced in their log."""
    return np.logspace(*ends).tolist()


def best(
    predict: Callable[[float, float], dict[str, Any]],
    lambda_w: list[float],
    beta: list[float],
    measured: dict[str, float],
    by: tuple[str, ...],
) -> dict[str, Any]:
    """The point of the grid with the least sum of squared log errors, and whether it is an end."""
    found = [predict(w, b) for w in lambda_w for b in beta]
    cost = [sum(error(p, measured, name) ** 2 for name in by) for p in found]
    chosen = found[int(np.argmin(cost))]
    ends = {
        name: len(values) > 1 and chosen[name] in (values[0], values[-1])
        for name, values in (("lambda_w", lambda_w), ("beta", beta))
    }
    return {**chosen, "at_end": ends}


def error(predicted: dict[str, float], measured: dict[str, float], name: str) -> float:
    """|log(predicted/measured)|."""
    return abs(math.log(predicted[name] / measured[name]))


def table(networks: list[dict[str, Any]]) -> str:
    """Markdown: median errors over the blocks of every network."""
    lines = [
        "Median |log(predicted/measured)| over the blocks of a network. `known`: λ_W = K·wd and β "
        "set by NC1; `free`: λ_W and β set by NC1 and ÑC1. `at end`: blocks whose λ_W is at an end "
        "of the grid.",
        "",
        f"| network | model | {' | '.join(COMPARED)} | λ_W at end |",
        f"|---|---|{'---|' * len(COMPARED)}---|",
    ]
    for network in networks:
        pairs = list(network["pairs"].values())
        name = f"wd {network['weight_decay']:g}{', batch norm' if network['batch_norm'] else ''}"
        models = [(f"{loss}, {how}", (loss, how)) for how in ("known", "free") for loss in LOSSES]
        for title, path in [("unchanged", ("unchanged",)), *models]:
            errors = {m: [error(_at(p, path), p["measured"], m) for p in pairs] for m in COMPARED}
            cells = [f"{median(errors[m]):.2f}" for m in COMPARED]
            ends = "–"
            if path[-1] == "free":
                count = sum(_at(p, path)["at_end"]["lambda_w"] for p in pairs)
                ends = f"{count} of {len(pairs)}"
            lines.append(f"| {' | '.join([name, title, *cells, ends])} |")
    return "\n".join(lines) + "\n"


def _at(record: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in path:
        record = record[key]
    return record


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "one network of two blocks, few epochs, coarse grids")
    config = Config()
    if chosen.quick:
        coarse = {"known_beta": (-1.0, 2.0, 3), "free_beta": (-1.0, 2.0, 2)}
        config = replace(
            config, networks=config.networks[:1], width=16, blocks=2, epochs=5,
            free_lambda_w=(-3.0, -1.0, 2), **coarse,
        )  # fmt: skip
    path = chosen.output / "result.json"
    if is_finished(path, config):
        return
    folder = runs_folder(chosen.output, config)
    networks = []
    for decay, batch_norm in config.networks:
        file = folder / f"wd{decay:g}{'-bn' if batch_norm else ''}.json"
        networks.append(kept(file, lambda _, d=decay, b=batch_norm: one(config, d, b)))
    write_json(path, {"manifest": manifest(config), "networks": networks})
    with replacing(chosen.output / "table.md") as temporary:
        temporary.write_text(table(networks), encoding="utf8")
    print(f"wrote {path} and table.md")


if __name__ == "__main__":
    main()

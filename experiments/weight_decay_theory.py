"""What the theory says more weight decay does to NC1, beside what it does to trained networks.

Residual MLPs on digits with the squared loss, where λ_W = K·(decay of the last layer) is not a
choice. For each seed five networks start from the same weights and see the same batches; what
differs is a weight decay, of the last layer or of the features. Measured: the log ratio of a metric
at the last block to that of the baseline. Predicted, by three uses of the theory:

- one step: the optimum of (1) with the baseline's last-but-one block as H0, and the λ_H and β that
  fit the baseline's last block. A decay of the last layer multiplies λ_W, one of the features λ_H.
- step from its own: the same, but H0 is the last-but-one block of the network itself.
- path: the central path from the baseline's first layer up to the flow time of its last block,
  λ_W = K·(decay of the last layer), λ_H = K·(decay of the features).

Beside them a rival that knows no theory: the log ratio at the last-but-one block.
"""

import json
import math
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from experiments.running import BATCH, data_for
from perturb_nc import collect_statistics
from perturb_nc.networks import ResidualMLP, TrainingConfig, batches, train_ensemble
from perturb_nc.storage import write_json

FOLDER = RESULTS / "weight_decay_theory"
METRICS = ("nc1", "nc1_trace", "nc1_span", "nc2_etf")
PREDICTIONS = ("one step", "step from its own", "path", "the block before")
CHANGES = {  # factors of the decays of the features and of the last layer
    "last layer x2": (1.0, 2.0),
    "last layer x5": (1.0, 5.0),
    "features x2": (2.0, 1.0),
    "features x5": (5.0, 1.0),
}
Layers = dict[str, pnc.ClassStatistics]
Effects = dict[str, float]  # metric → log ratio to the baseline


@dataclass(frozen=True)
class Config:
    """Some minutes on one CPU thread."""

    weight_decay: float = 1e-3
    width: int = 64
    blocks: int = 5
    epochs: int = 150
    learning_rate: float = 0.05
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    samples: int | None = None


def networks(config: Config, seed: int, device: str) -> dict[str, Layers]:
    """Statistics of the first and the last two layers of the baseline and the four others."""
    data = data_for("digits", config.samples, device)
    factors = {"baseline": (1.0, 1.0), **CHANGES}
    milestones = tuple(config.epochs * i // 4 for i in (2, 3))
    models, trainings = [], []
    for features, last in factors.values():
        torch.manual_seed(seed)
        size = data.inputs[0].numel()
        model = ResidualMLP(size, config.width, config.blocks, data.num_classes)
        models.append(model.to(device))
        trainings.append(
            TrainingConfig(
                epochs=config.epochs,
                batch_size=64,
                learning_rate=config.learning_rate,
                milestones=milestones,
                weight_decay=features * config.weight_decay,
                last_layer_weight_decay=last * config.weight_decay,
                seed=seed,
            )
        )
    train_ensemble(models, data, trainings)
    names = ["embed", *(f"blocks.{i}" for i in (config.blocks - 2, config.blocks - 1))]
    return {
        name: {
            layer: s.to("cpu")
            for layer, s in collect_statistics(model, batches(data, BATCH), layers=names).items()
        }
        for name, model in zip(factors, models, strict=True)
    }


def measured(networks: dict[str, Layers], layer: int) -> dict[str, Effects]:
    """Log ratios to the baseline at a layer, by change."""
    base = pnc.collapse_metrics(list(networks["baseline"].values())[layer])
    return {
        change: _ratios(pnc.collapse_metrics(list(networks[change].values())[layer]), base)
        for change in CHANGES
    }


def predicted(config: Config, networks: dict[str, Layers]) -> dict[str, dict[str, Effects]]:
    """Log ratios at the last block, by prediction and change; and the λ_H and β of the baseline."""
    first, before, last = networks["baseline"].values()
    lambda_w = first.num_classes * config.weight_decay
    fit = pnc.fit_regularization(before, last, lambda_w=lambda_w)
    depth = pnc.calibrate_depth(
        {"first": first, "last": last}, lambda_w=lambda_w, lambda_h=lambda_w, metric="nc1_span"
    )

    def step(h0: pnc.ClassStatistics, features: float, head: float) -> pnc.CollapseMetrics:
        problem = pnc.NearCollapseProblem(
            h0, lambda_w=head * lambda_w, lambda_h=features * fit.lambda_h, beta=fit.beta
        )
        return pnc.collapse_metrics(pnc.minimize(problem).statistics)

    def path(features: float, head: float) -> pnc.CollapseMetrics | None:
        time = depth.times["last"]
        if math.isnan(time):
            return None
        flow = pnc.central_path_flow(
            first, lambda_w=head * lambda_w, lambda_h=features * lambda_w, times=[time]
        )
        return flow.metrics[-1]

    step_before, path_before = step(before, 1.0, 1.0), path(1.0, 1.0)
    found: dict[str, dict[str, Effects]] = {name: {} for name in PREDICTIONS}
    for change, factors in CHANGES.items():
        found["one step"][change] = _ratios(step(before, *factors), step_before)
        own = list(networks[change].values())[1]
        found["step from its own"][change] = _ratios(step(own, *factors), step_before)
        found["path"][change] = _ratios(path(*factors), path_before)
    found["the block before"] = measured(networks, 1)
    return found


def _ratios(after: pnc.CollapseMetrics | None, before: pnc.CollapseMetrics | None) -> Effects:
    if after is None or before is None:
        return dict.fromkeys(METRICS, math.nan)
    return {m: math.log(getattr(after, m) / getattr(before, m)) for m in METRICS}


def summary(runs: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Mean and standard error over seeds of every effect: metric → change → who says so."""

    def over_seeds(values: list[float | None]) -> dict[str, float]:
        known = [v for v in values if v is not None and not math.isnan(v)]
        error = stdev(known) / math.sqrt(len(known)) if len(known) > 1 else math.nan
        return {"mean": fmean(known) if known else math.nan, "error": error, "seeds": len(known)}

    return {
        metric: {
            change: {
                "measured": over_seeds([run["measured"][change][metric] for run in runs]),
                **{
                    name: over_seeds([run["predicted"][name][change][metric] for run in runs])
                    for name in PREDICTIONS
                },
            }
            for change in CHANGES
        }
        for metric in METRICS
    }


def table(found: dict[str, Any]) -> str:
    """Markdown: log ratios to the baseline, mean ± standard error over seeds."""
    head = ("metric", "change", "measured", *PREDICTIONS)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for metric, changes in found.items():
        for change, row in changes.items():
            cells = (f"{v['mean']:+.3f} ± {v['error']:.3f}" for v in row.values())
            lines.append(f"| {' | '.join((metric, change, *cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two seeds, few epochs, 400 digits")
    config = Config()
    if chosen.quick:
        config = replace(config, epochs=8, seeds=(0, 1), samples=400, width=16, blocks=2)
    if is_finished(chosen.output / "result.json", config):
        return
    runs = []
    for seed in config.seeds:
        path = chosen.output / f"seed{seed}.safetensors"
        note = {"config": json.dumps(manifest(config)["config"])}
        if path.is_file() and pnc.load_metadata(path) != note:
            raise ValueError(f"{path} is of another configuration; delete it")
        if not path.is_file():
            found = networks(config, seed, chosen.device)
            layers = {f"{n}/{layer}": s for n, of in found.items() for layer, s in of.items()}
            pnc.save_layers(layers, path, note, dtype=torch.float32)
        stored: dict[str, Layers] = {}
        for name, statistics in pnc.load_layers(path).items():
            network, _, layer = name.partition("/")
            stored.setdefault(network, {})[layer] = statistics
        runs.append(
            {
                "seed": seed,
                "measured": measured(stored, 2),
                "predicted": predicted(config, stored),
            }
        )
        print(f"seed {seed}: done", flush=True)
    found = summary(runs)
    write_json(
        chosen.output / "result.json",
        {"manifest": manifest(config), "summary": found, "runs": runs},
    )
    print(table(found))


if __name__ == "__main__":
    main()

"""Two classes: gradient descent against the closed form, and DNC metrics per layer over training.

Gradient descent, and L-BFGS, at depths 2..6 from the same Gaussian starts; the optimum below and
above the threshold in λ; and the linear model with four classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import finished_parts, manifest
from perturb_nc.storage import write_json

OUTPUT = RESULTS / "binary_dnc.json"


@dataclass(frozen=True)
class Config:
    """Two classes of n samples, one λ for every layer and H_1; factors multiply the threshold λ."""

    depths: tuple[int, ...] = (2, 3, 4, 5, 6)
    width: int = 32
    samples_per_class: int = 10
    decay: float = 5e-3
    seeds: int = 10
    learning_rate: float = 0.5
    steps: int = 40_000
    records: int = 40
    fast_steps: int = 3000
    threshold_depths: tuple[int, ...] = (2, 3, 4)
    threshold_factors: tuple[float, ...] = (0.5, 0.8, 0.95, 0.99, 1.01, 1.05, 1.2, 1.6)
    linear_classes: int = 4
    linear_samples: int = 100
    linear_depth: int = 3
    linear_decay: float = 2e-3


def optimum(
    config: Config, depth: int, decay: float, num_classes: int = 2, samples: int | None = None
) -> pnc.deep.DeepCollapse:
    """The closed form."""
    return pnc.deep.deep_collapse_optimum(
        num_layers=depth,
        num_classes=num_classes,
        samples_per_class=samples or config.samples_per_class,
        lambdas=decay,
        lambda_h=decay,
    )


def start(config: Config) -> tuple[pnc.deep.DeepUFM, list[int], Tensor]:
    """All depths and seeds as one batch; the depth of every run and its optimum."""
    depths = [d for d in config.depths for _ in range(config.seeds)]
    model = pnc.deep.DeepUFM(
        torch.arange(2).repeat_interleave(config.samples_per_class),
        [config.width] * max(depths),
        lambdas=config.decay,
        lambda_h=config.decay,
        num_layers=depths,
        seeds=[*range(config.seeds)] * len(config.depths),
    )
    values = [optimum(config, d, config.decay).objective for d in depths]
    return model, depths, torch.tensor(values, dtype=torch.float64)


def descent(config: Config) -> dict[str, Any]:
    """Gradient descent; medians of |f - f*| and of the DNC metrics at some of the checks."""
    model, depths, values = start(config)
    every = max(1, config.steps // 400)
    log = torch.logspace(0, torch.log10(torch.tensor(400.0)), config.records)
    wanted = {0, *(every * int(i) for i in log.round().unique())}
    history: list[dict[str, Any]] = []

    def on_check(step: int, current: pnc.deep.DeepUFM) -> None:
        if step in wanted:
            excess = (current.objective().detach() - values).tolist()
            collapse = [_metrics(current, run) for run in range(len(depths))]
            history.append({"step": step, "excess": excess, "layers": collapse})

    trained = pnc.deep.gradient_descent(
        model,
        learning_rate=config.learning_rate,
        max_steps=config.steps,
        check_every=every,
        on_check=on_check,
    )
    final = [_metrics(model, run) for run in range(len(depths))]
    return {
        "depth_of_run": depths,
        "optimum": values.tolist(),
        "descent": trained.objective.tolist(),
        "descent_status": [s.name for s in trained.status],
        "final_layers": final,
        "history": medians(history, depths),
    }


def fast(config: Config) -> dict[str, Any]:
    """L-BFGS from the same starts."""
    model, depths, values = start(config)
    trained = pnc.deep.lbfgs(model, max_steps=config.fast_steps, tol=1e-8)
    return {
        "depth_of_run": depths,
        "optimum": values.tolist(),
        "lbfgs": trained.objective.tolist(),
        "steps": trained.steps.tolist(),
        "status": [s.name for s in trained.status],
    }


def medians(history: list[dict[str, Any]], depths: list[int]) -> list[dict[str, Any]]:
    """|f - f*| and the metrics of every layer over training: medians over the seeds of a depth."""
    rows = []
    for depth in sorted(set(depths)):
        runs = [i for i, d in enumerate(depths) if d == depth]
        row: dict[str, Any] = {"depth": depth, "steps": [h["step"] for h in history]}
        row["excess"] = [median(abs(h["excess"][i]) for i in runs) for h in history]
        for name in ("dnc1", "dnc2", "dnc3"):
            row[name] = [
                [median(h["layers"][i][name][layer] for i in runs) for h in history]
                for layer in range(depth)
            ]
        rows.append(row)
    return rows


def _metrics(model: pnc.deep.DeepUFM, run: int) -> dict[str, list[float]]:
    layers = model.collapse(run)
    return {name: [getattr(layer, name) for layer in layers] for name in ("dnc1", "dnc2", "dnc3")}


def threshold(config: Config) -> dict[str, Any]:
    """Best of all seeds by L-BFGS, at λ below and above the one where collapse stops paying."""
    labels = torch.arange(2).repeat_interleave(config.samples_per_class)
    rows = []
    for depth in config.threshold_depths:
        found = optimum(config, depth, config.decay)
        ratio = (found.thresholds[0] / found.strengths[0]).item()
        limit = config.decay * ratio ** (1 / (depth + 1))
        for factor in config.threshold_factors:
            decay = factor * limit
            model = pnc.deep.DeepUFM(
                labels,
                [config.width] * depth,
                lambdas=decay,
                lambda_h=decay,
                seeds=range(config.seeds),
            )
            trained = pnc.deep.lbfgs(model, max_steps=1500, tol=1e-8)
            # Zero is a stationary point that needs no search.
            best = min(0.5, trained.objective.min().item())
            rows.append(
                {
                    "depth": depth,
                    "factor": factor,
                    "decay": decay,
                    "optimum": optimum(config, depth, decay).objective,
                    "best": best,
                    "found": trained.objective.tolist(),
                }
            )
    return {"rows": rows}


def linear(config: Config) -> dict[str, Any]:
    """The linear model with more classes."""
    k, n, decay = config.linear_classes, config.linear_samples, config.linear_decay
    model = pnc.deep.DeepUFM(
        torch.arange(k).repeat_interleave(n),
        [config.width] * config.linear_depth,
        lambdas=decay,
        lambda_h=decay,
        relu=False,
        seeds=range(config.seeds),
        feature_scale=config.width**-0.5,
    )
    trained = pnc.deep.gradient_descent(
        model, learning_rate=config.learning_rate, max_steps=config.steps // 4, tol=1e-8
    )
    return {
        "optimum": optimum(config, config.linear_depth, decay, k, n).objective,
        "descent": trained.objective.tolist(),
        "steps": trained.steps.tolist(),
        "final_layers": [_metrics(model, run) for run in range(config.seeds)],
    }


PARTS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "descent": descent,
    "fast": fast,
    "threshold": threshold,
    "linear": linear,
}


def main() -> None:
    """Command line."""
    chosen = options(__doc__, OUTPUT, "depths 2 and 3, two seeds")
    config = Config()
    if chosen.quick:
        config = replace(
            config,
            depths=(2, 3),
            seeds=3,
            steps=4000,
            fast_steps=600,
            threshold_depths=(2,),
            threshold_factors=(0.8, 1.2),
            linear_samples=3,
        )
    parts = finished_parts(chosen.output, config)
    for name in track([p for p in PARTS if p not in parts], description="parts"):
        parts[name] = PARTS[name](config)
        write_json(chosen.output, {"manifest": manifest(config), "parts": parts})
    for depth in config.depths:
        part = parts["descent"]
        runs = [i for i, d in enumerate(part["depth_of_run"]) if d == depth]
        near = sum(abs(part["descent"][i] - part["optimum"][i]) < 1e-6 for i in runs)
        dnc1 = max(max(part["final_layers"][i]["dnc1"]) for i in runs)
        other = parts["fast"]["lbfgs"]
        quick = sum(abs(other[i] - part["optimum"][i]) < 1e-8 for i in runs)
        print(
            f"L = {depth}: f* = {part['optimum'][runs[0]]:.10f}, gradient descent within 1e-6: "
            f"{near} of {len(runs)}, largest DNC1 {dnc1:.1e}; L-BFGS within 1e-8: {quick}"
        )
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()

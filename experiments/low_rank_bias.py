"""Is collapse optimal for more than two classes? Best found against the DNC and SRG values.

For every K, gradient descent from Gaussian starts, finished by L-BFGS, n = 1; and L-BFGS from the
strongly-regular-graph solution where there is one. Last, many starts in narrow networks: low-rank
solutions need no width, and are met more often there.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import finished_parts, manifest
from perturb_nc.storage import write_json
from perturb_nc.theory.status import Status

OUTPUT = RESULTS / "low_rank_bias.json"
_LOW_RANKS = {6: 4, 10: 5, 15: 6}


@dataclass(frozen=True)
class Config:
    """Depth L, λ of every layer and of H_1; (K, width) of each part."""

    depth: int = 4
    decay: float = 4e-3
    settings: tuple[tuple[int, int], ...] = (
        *((k, 30) for k in range(3, 16)),
        (3, 64),
        (4, 64),
        (5, 64),
        (10, 64),
    )
    seeds: int = 20
    learning_rate: float = 0.5
    feature_scale: float = 0.5
    steps: int = 20_000
    polish: int = 400
    search_classes: tuple[int, ...] = tuple(range(2, 16))
    search_seeds: int = 200
    search_steps: int = 800


def run_setting(config: Config, num_classes: int, width: int) -> dict[str, Any]:
    """All seeds of one number of classes and one width."""
    labels, widths = torch.arange(num_classes), [width] * config.depth
    penalties = {"lambdas": config.decay, "lambda_h": config.decay}
    model = pnc.deep.DeepUFM(
        labels,
        widths,
        seeds=range(config.seeds),
        feature_scale=config.feature_scale,
        **penalties,
    )
    descent = pnc.deep.gradient_descent(
        model, learning_rate=config.learning_rate, max_steps=config.steps
    )
    diverged = sum(s is Status.DIVERGED for s in descent.status)
    if diverged:
        raise FloatingPointError(f"K = {num_classes}: {diverged} runs diverged; lower the rate")
    polished = pnc.deep.lbfgs(model, max_steps=config.polish, tol=1e-7)
    shape = {
        "depth": config.depth,
        "num_classes": num_classes,
        "samples_per_class": 1,
        **penalties,
    }
    result = {
        "num_classes": num_classes,
        "width": width,
        "collapse": pnc.deep.deep_collapse_optimum(**shape).objective,
        "descent": descent.objective.tolist(),
        "polished": polished.objective.tolist(),
        "status": [s.name for s in polished.status],
        "ranks": [[layer.rank for layer in model.collapse(run)] for run in range(config.seeds)],
    }
    if num_classes in _LOW_RANKS:
        strongly = pnc.deep.strongly_regular_solution(**shape)
        start = pnc.deep.DeepUFM(labels, widths, **penalties)
        start.load_parameters(strongly.parameters(widths))
        refined = pnc.deep.lbfgs(start, max_steps=5 * config.polish, tol=1e-7)
        result["strongly_regular"] = strongly.objective
        result["refined"] = refined.objective.item()
        result["refined_ranks"] = [layer.rank for layer in start.collapse()]
    return result


def search(config: Config, num_classes: int) -> dict[str, Any]:
    """The best of many starts of L-BFGS in a narrow network, where low ranks are met most."""
    width = num_classes + 2
    model = pnc.deep.DeepUFM(
        torch.arange(num_classes),
        [width] * config.depth,
        seeds=range(config.search_seeds),
        lambdas=config.decay,
        lambda_h=config.decay,
    )
    trained = pnc.deep.lbfgs(model, max_steps=config.search_steps, tol=1e-7)
    best = int(trained.objective.argmin())
    collapse = pnc.deep.deep_collapse_optimum(
        num_layers=config.depth,
        num_classes=num_classes,
        samples_per_class=1,
        lambdas=config.decay,
        lambda_h=config.decay,
    ).objective
    return {
        "num_classes": num_classes,
        "width": width,
        "collapse": collapse,
        "best": trained.objective[best].item(),
        "ranks": [layer.rank for layer in model.collapse(best)],
        "below": int((trained.objective < (1 - 1e-3) * collapse).sum()),
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, OUTPUT, "K = 4 and 6, few steps")
    config = Config()
    if chosen.quick:
        config = replace(
            config,
            settings=((4, 20), (6, 12)),
            seeds=4,
            steps=500,
            polish=200,
            search_classes=(2,),
            search_seeds=4,
            search_steps=200,
        )
    parts = finished_parts(chosen.output, config)
    for k, width in config.settings:
        name = f"K={k},width={width}"
        if name in parts:
            continue
        parts[name] = part = run_setting(config, k, width)
        write_json(chosen.output, {"manifest": manifest(config), "parts": parts})
        ratios = [f / part["collapse"] - 1 for f in part["descent"]]
        at, below = sum(abs(r) <= 1e-3 for r in ratios), sum(r < -1e-3 for r in ratios)
        print(
            f"{name}: DNC {part['collapse']:.6f}, "
            f"SRG {part.get('strongly_regular', math.nan):.6f}, "
            f"descent at DNC {at}, below {below} of {config.seeds}; "
            f"best after L-BFGS {min(part['polished']):.6f}",
            flush=True,
        )
    for k in config.search_classes:
        name = f"search:K={k}"
        if name not in parts:
            parts[name] = part = search(config, k)
            write_json(chosen.output, {"manifest": manifest(config), "parts": parts})
            ratio = part["best"] / part["collapse"]
            print(f"{name}: best {part['best']:.6f}, {ratio:.4f} of DNC, ranks {part['ranks']}")
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()

"""How often gradient descent ends at collapse, by width; and the rank it ends with, by λ and K.

Depth 4, n = 1, gradient descent from Gaussian starts finished by L-BFGS. A run counts as collapse
when its objective is within `tolerance` of the closed form, relatively; as below or above it else.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import finished_parts, manifest
from perturb_nc.storage import write_json
from perturb_nc.theory.status import Status

OUTPUT = RESULTS / "width_and_decay.json"


@dataclass(frozen=True)
class Config:
    """Widths for each K at one λ, then λ for each K at one width."""

    depth: int = 4
    seeds: int = 20
    widths: tuple[int, ...] = (2, 4, 8, 12, 16, 24, 32, 48, 64)
    width_classes: tuple[int, ...] = (2, 5, 10)
    decay: float = 4e-3
    decays: tuple[float, ...] = (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
    decay_classes: tuple[int, ...] = (2, 4, 6, 8, 10, 12)
    width: int = 24
    learning_rate: float = 0.1
    steps: int = 8000
    polish: int = 400
    tolerance: float = 1e-3


def run_setting(
    config: Config, *, num_classes: int, width: int, decays: tuple[float, ...]
) -> list[dict[str, Any]]:
    """All λ and seeds of one K and one width as one batch; a record for each λ."""
    column = torch.tensor(decays, dtype=torch.float64).repeat_interleave(config.seeds)
    model = pnc.deep.DeepUFM(
        torch.arange(num_classes),
        [width] * config.depth,
        lambdas=column[:, None],
        lambda_h=column,
        seeds=[*range(config.seeds)] * len(decays),
    )
    descent = pnc.deep.gradient_descent(
        model, learning_rate=config.learning_rate, max_steps=config.steps
    )
    if Status.DIVERGED in descent.status:
        raise FloatingPointError(f"K = {num_classes}, width {width}: diverged; lower the rate")
    trained = pnc.deep.lbfgs(model, max_steps=config.polish, tol=1e-7)
    records = []
    for i, decay in enumerate(decays):
        collapse = pnc.deep.deep_collapse_optimum(
            num_layers=config.depth,
            num_classes=num_classes,
            samples_per_class=1,
            lambdas=decay,
            lambda_h=decay,
        ).objective
        runs = range(i * config.seeds, (i + 1) * config.seeds)
        found = trained.objective[runs.start : runs.stop] / collapse - 1
        records.append(
            {
                "num_classes": num_classes,
                "width": width,
                "decay": decay,
                "collapse": collapse,
                "objective": trained.objective[runs.start : runs.stop].tolist(),
                "at_collapse": int((found.abs() <= config.tolerance).sum()),
                "below": int((found < -config.tolerance).sum()),
                "above": int((found > config.tolerance).sum()),
                "ranks": [[layer.rank for layer in model.collapse(run)] for run in runs],
            }
        )
    return records


def main() -> None:
    """Command line."""
    chosen = options(__doc__, OUTPUT, "two widths, K = 3, few steps")
    config = Config()
    if chosen.quick:
        config = replace(
            config,
            seeds=4,
            widths=(4, 12),
            width_classes=(3,),
            decays=(4e-3, 6e-2),
            decay_classes=(3,),
            width=12,
            steps=800,
            polish=200,
        )
    settings = [
        *((f"width:K={k},d={w}", k, w, (config.decay,)) for k in config.width_classes
          for w in config.widths if w >= k),
        *((f"decay:K={k}", k, config.width, config.decays) for k in config.decay_classes),
    ]  # fmt: skip
    parts = finished_parts(chosen.output, config)
    for name, k, width, decays in settings:
        if name in parts:
            continue
        parts[name] = run_setting(config, num_classes=k, width=width, decays=decays)
        write_json(chosen.output, {"manifest": manifest(config), "parts": parts})
        for row in parts[name]:
            counts = f"at DNC {row['at_collapse']}, below {row['below']}, above {row['above']}"
            print(f"{name}, λ = {row['decay']:g}: {counts} of {config.seeds}", flush=True)
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()

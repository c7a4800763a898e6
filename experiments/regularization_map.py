"""NC1 of the optimum over (λ_W, λ_H) at three β, from a real layer as H0.

H0 is the last block of the public ResNet-18 on CIFAR-10. Claim under test (Tirer et al. 2023): λ_H
moves NC1 more than λ_W.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.progress import Progress

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from perturb_nc.storage import write_json

FOLDER = RESULTS / "regularization_map"
DRAWN = ("nc1", "nc1_derivative", "spectral_ratio", "is_global", "singular_values", "status")


@dataclass(frozen=True)
class Config:
    """Both λ from `lambdas[0]` to `lambdas[1]`, `points` each."""

    layers: str = "results/public_resnet/layers.safetensors"
    layer: str = "blocks.7"
    lambdas: tuple[float, float] = (1e-4, 1e-1)
    points: int = 24
    beta: tuple[float, ...] = (0.03, 0.3, 3.0)


def run(config: Config, store: Path) -> dict[str, object]:
    """The part of the sweep that the figure shows; goes on from a store."""
    reference = pnc.load_layers(RESULTS.parent / config.layers)[config.layer]
    axis = np.geomspace(*config.lambdas, config.points)
    with Progress() as progress:
        task = progress.add_task("settings")
        dataset = pnc.sweep(
            reference,
            lambda_w=axis,
            lambda_h=axis,
            beta=config.beta,
            store=store,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    shown = dataset[list(DRAWN)].isel(singular_value=[0])  # the largest
    slopes = abs(shown["nc1_derivative"])
    by_h, by_w = (slopes.sel(parameter=name) for name in ("lambda_h", "lambda_w"))
    shares = (by_h > by_w).mean(("lambda_w", "lambda_h"))
    return {
        "manifest": manifest(config),
        "certified": float(shown["is_global"].mean()),
        "lambda_h_moves_more": dict(
            zip(map(str, config.beta), shares.values.tolist(), strict=True)
        ),
        "dataset": shown.to_dict(),
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "three points an axis, one β, 64 dimensions")
    config = Config()
    if chosen.quick:
        config = replace(config, layer="stem", points=3, beta=(1.0,))
    if is_finished(chosen.output / "map.json", config):
        return
    result = run(config, chosen.output / "runs" / f"{config.layer}-{config.points}.zarr")
    write_json(chosen.output / "map.json", result)
    print(f"wrote {chosen.output / 'map.json'}: {result['lambda_h_moves_more']}")


if __name__ == "__main__":
    main()

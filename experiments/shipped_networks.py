"""Every network whose layers are shipped: held-out errors of the central path and of rivals.

Reads the class statistics under experiments/results/, trains nothing. For each network
`compare_layers` calibrates the path on every second layer, fits (λ_W, λ_H, β) to every pair of
layers, and sets predictions beside measurements; the tables have the median error on held-out
layers, placed by NC1 in the span of the class means and by NC1.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from perturb_nc.storage import replacing, write_json

FOLDER = RESULTS / "shipped_networks"
JUDGED = ("nc1", "nc1_span", "nc1_trace", "nc2_etf", "cdnv", "top_eigenvalues")
MODELS = ("path", "shrinkage", "interpolation", "unchanged")


@dataclass(frozen=True)
class Config:
    """Where the layers are, and what places them on the path."""

    files: tuple[str, ...] = (
        "depth_calibration/*.safetensors",
        "equal_width/*.safetensors",
        "every_layer/*.safetensors",
        "public_resnet/layers.safetensors",
        "depthwise_layerwise/*.safetensors",
        "feature_learning/*.safetensors",
    )
    metrics: tuple[str, ...] = ("nc1_span", "nc1")  # pairs are fitted with the first alone
    pairs: bool = True
    residual: str = "/res|-res|resnet"  # in the names of networks whose layers share a basis


def compared(path: Path, metric: str, config: Config, folder: Path) -> xr.Dataset:
    """The comparison of one network: from its file, or made now."""
    layers = pnc.load_layers(path)
    name = f"{path.parent.name}/{path.stem.removesuffix('-seed0')}"
    first = metric == config.metrics[0]
    target = folder / f"{path.parent.name}-{path.stem}{'' if first else '-' + metric}.json"
    if target.is_file():
        return pnc.load_comparison(target)
    aligned = not re.search(config.residual, name)
    table = pnc.compare_layers(
        layers, name=name, metric=metric, align_layers=aligned, pairs=first and config.pairs
    )
    pnc.save_comparison(table, target)
    print(f"{name}: compared", flush=True)
    return table


def judged_by(metric: str) -> list[str]:
    """All but the one that places the layers, which agrees by construction."""
    return [quantity for quantity in JUDGED if quantity != metric]


def markdown(table: xr.DataArray, metric: str) -> str:
    """The table of errors, with the best of each row and quantity in bold."""
    quantities = judged_by(metric)
    lines = [
        f"Median |log(predicted/measured)| on held-out layers: {' / '.join(MODELS)}.",
        "",
        f"| network | layers judged | {' | '.join(quantities)} |",
        f"|---|---|{'---|' * len(quantities)}",
    ]
    for network in table["network"].values:
        row = table.sel(network=network, model=list(MODELS), quantity=quantities)
        cells = []
        for quantity in quantities:
            values = row.sel(quantity=quantity).values
            marks = [f"**{v:.3f}**" if v == min(values) else f"{v:.3f}" for v in values]
            cells.append("–" if row["judged"].item() == 0 else " / ".join(marks))
        counted = f"{row['judged'].item()} of {row['layers'].item()}"
        lines.append(f"| {network} | {counted} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def wins(table: xr.DataArray, metric: str) -> dict[str, dict[str, int]]:
    """Quantity → model → on how many networks (with a layer judged) it has the least error."""
    judged = table.sel(network=table["judged"] > 0, model=list(MODELS))
    best: dict[str, Any] = {}
    for quantity in judged_by(metric):
        winner = judged.sel(quantity=quantity).argmin("model").values
        best[quantity] = {model: int((winner == i).sum()) for i, model in enumerate(MODELS)}
    return best


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two networks on digits")
    config = Config()
    if chosen.quick:
        few = ("depth_calibration/digits-res-wd0.005*.safetensors",)
        config = Config(files=few, pairs=False)
    if is_finished(chosen.output / "result.json", config):
        return
    files = [path for pattern in config.files for path in sorted(RESULTS.glob(pattern))]
    tables = {
        metric: pnc.error_table([compared(p, metric, config, chosen.output) for p in files])
        for metric in config.metrics
    }
    found = {m: {"wins": wins(t, m), "errors": t.to_dict()} for m, t in tables.items()}
    write_json(chosen.output / "result.json", {"manifest": manifest(config), **found})
    text = "\n".join(f"Placed by {metric}\n\n{markdown(t, metric)}" for metric, t in tables.items())
    with replacing(chosen.output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()

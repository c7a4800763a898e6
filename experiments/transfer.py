"""Parameters fitted to one network used on another epoch, split, seed or weight decay.

A residual MLP on digits (squared loss) is the source: λ_W of its central path, and (λ_W, λ_H, β) of
every pair of its layers. Every target is predicted twice: with its own parameters, and with the
source's. So the pairs' predictions, else fitted to the layer they predict, are held out.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
import xarray as xr

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from experiments.running import BATCH, data_for
from perturb_nc import collect_statistics
from perturb_nc.networks import ResidualMLP, TrainingConfig, batches, train
from perturb_nc.storage import replacing, write_json
from perturb_nc.study.comparison import errors

FOLDER = RESULTS / "transfer"
JUDGED = ("nc1", "nc1_trace", "nc2_etf", "cdnv", "top_eigenvalues")
SOURCE = "source"
Layers = dict[str, pnc.ClassStatistics]


@dataclass(frozen=True)
class Config:
    """About three minutes on one CPU thread."""

    weight_decay: float = 1e-3
    other_decay: float = 5e-3
    width: int = 64
    blocks: int = 5
    epochs: tuple[int, ...] = (60, 90, 150)  # measured; the last one is the source's
    learning_rate: float = 0.05
    samples: int | None = None


def networks(config: Config, device: str) -> dict[str, Layers]:
    """The source, and the same network at other epochs, on other samples, and others."""
    last = config.epochs[-1]
    own = trained(config, config.weight_decay, 0, device)
    found = {SOURCE: own[f"epoch {last}"]}
    found |= {f"epoch {epoch}": own[f"epoch {epoch}"] for epoch in config.epochs[:-1]}
    found["test samples"] = own["test samples"]
    found["another seed"] = trained(config, config.weight_decay, 1, device)[f"epoch {last}"]
    other = trained(config, config.other_decay, 0, device)
    found[f"decay {config.other_decay:g}"] = other[f"epoch {last}"]
    return found


def trained(config: Config, decay: float, seed: int, device: str) -> dict[str, Layers]:
    """Layers of one network at the epochs on training samples, and at the end on test samples."""
    data = data_for("digits", config.samples, device)
    test = data_for("digits", None, device, split="test")
    torch.manual_seed(seed)
    size = data.inputs[0].numel()
    model = ResidualMLP(size, config.width, config.blocks, data.num_classes).to(device)
    names = ["embed", *(f"blocks.{i}" for i in range(config.blocks))]
    found: dict[str, Layers] = {}

    def measure(samples: Any) -> Layers:
        measured = collect_statistics(model, batches(samples, BATCH), layers=names)
        return {name: s.to("cpu") for name, s in measured.items()}

    def on_epoch(record: Any) -> None:
        if record.epoch in config.epochs:
            found[f"epoch {record.epoch}"] = measure(data)

    last = config.epochs[-1]
    training = TrainingConfig(
        epochs=last,
        batch_size=64,
        learning_rate=config.learning_rate,
        milestones=(last // 2, 3 * last // 4),
        weight_decay=decay,
        seed=seed,
    )
    train(model, data, training, on_epoch=on_epoch)
    found["test samples"] = measure(test)
    return found


def row(name: str, own: xr.Dataset, transferred: xr.Dataset) -> dict[str, Any]:
    """Median errors over the layers after the first, by model and whose parameters."""
    cases = {
        "path, own λ_W": (own, "path"),
        "path, source's λ_W": (transferred, "path"),
        "pairs, own (not held out)": (own, "pair"),
        "pairs, source's": (transferred, "pair"),
        "unchanged": (own, "unchanged"),
    }
    medians = {
        case: errors(table).sel(model=model, quantity=list(JUDGED)).median("layer").values.tolist()
        for case, (table, model) in cases.items()
    }
    residuals = {
        "pairs, own": own["residual"].median().item(),
        "pairs, source's": transferred["residual"].median().item(),
        "unchanged": own["unchanged_residual"].median().item(),
    }
    return {"target": name, "errors": medians, "residuals": residuals}


def markdown(rows: list[dict[str, Any]]) -> str:
    """One row a target and model."""
    head = ("target", "model", *JUDGED)
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for found in rows:
        for case, values in found["errors"].items():
            cells = (f"{v:.3f}" for v in values)
            lines.append(f"| {' | '.join((found['target'], case, *cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "one block, eight epochs, 400 digits")
    config = Config()
    if chosen.quick:
        config = replace(config, epochs=(4, 8), width=12, blocks=1, samples=400)
    if is_finished(chosen.output / "result.json", config):
        return
    found = networks(config, chosen.device)
    source = pnc.compare_layers(found.pop(SOURCE), name=SOURCE)
    pnc.save_comparison(source, chosen.output / "source.json")
    rows = []
    for name, layers in found.items():
        own = pnc.compare_layers(layers, name=name)
        transferred = pnc.compare_layers(layers, name=name, parameters=source)
        rows.append(row(name, own, transferred))
        print(f"{name}: compared", flush=True)
    write_json(chosen.output / "result.json", {"manifest": manifest(config), "rows": rows})
    with replacing(chosen.output / "table.md") as temporary:
        temporary.write_text(markdown(rows), encoding="utf8")
    print(markdown(rows))


if __name__ == "__main__":
    main()

"""Every theory of depth on every network whose layers are shipped, and on residual MLPs.

Each layer is left out in its turn (`perturb_nc.study.theories_of_depth`), placed by NC1 in the span
of the class means. Shipped are the class statistics under experiments/results/; the residual MLPs
(digits, squared loss and cross-entropy, with and without batch norm, three seeds each) are trained
here, for their joint statistics and their straightness. One dataset holds all predictions.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

import perturb_nc as pnc
from experiments.command import RESULTS, SHIPPED, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import data_for
from perturb_nc.measure import joint_statistics
from perturb_nc.networks import ResidualMLP, TrainingConfig, batches, train
from perturb_nc.storage import replacing, write_json
from perturb_nc.study import (
    all_pairs,
    bench_table,
    standings,
    straightness,
    theories_of_depth,
)
from perturb_nc.study.bench import IN_SPAN, OUT_OF_SPAN

SUMMED = ("nc1", "nc2_etf", "nc2_equiangular", "nc1_trace", "cdnv", "top_eigenvalues")
FOLDER = RESULTS / "theories_of_depth"


@dataclass(frozen=True)
class Config:
    """The networks: where the shipped ones are, and what is trained."""

    files: tuple[str, ...] = SHIPPED
    metric: str = "nc1_span"
    losses: tuple[str, ...] = ("mse", "cross_entropy")
    seeds: tuple[int, ...] = (0, 1, 2)
    blocks: int = 8
    epochs: int = 60
    learning_rate: float = 0.02
    weight_decay: float = 1e-3
    samples: int | None = None


def trained(config: Config, loss: str, batch_norm: bool, seed: int) -> dict[str, Any]:
    """Bench and straightness of a residual MLP of 64 features."""
    data = data_for("digits", config.samples)
    torch.manual_seed(seed)
    model = ResidualMLP(
        data.inputs[0].numel(), 64, config.blocks, data.num_classes, batch_norm=batch_norm
    )
    epochs = config.epochs
    training = TrainingConfig(
        epochs=epochs,
        batch_size=64,
        learning_rate=config.learning_rate,
        milestones=(epochs // 2, 3 * epochs // 4) if epochs >= 4 else (),
        weight_decay=config.weight_decay,
        loss=loss,
        seed=seed,
    )
    history = train(model, data, training)
    names = ["embed", *(f"blocks.{i}" for i in range(config.blocks))]
    joints = joint_statistics(model, batches(data, 1024), all_pairs(names))
    layers = {names[0]: joints[names[0], names[1]].first}
    layers |= {name: joints[names[0], name].last for name in names[1:]}
    straight = straightness(joints)
    return {
        "bench": bench(layers, name_of(loss, batch_norm, seed), config, joints),
        "train_accuracy": history[-1].accuracy,
        "straightness": {
            "line_shape": straight.line_shape,
            "path_ratio": straight.path_ratio,
            "steps": straight.steps.tolist(),
            "off_line": straight.off_line.tolist(),
        },
    }


def name_of(loss: str, batch_norm: bool, seed: int) -> str:
    """As the networks of depth_calibration are named."""
    return f"res8{'-bn' if batch_norm else ''}{'-ce' if loss == 'cross_entropy' else ''}-seed{seed}"


def bench(layers: Any, name: str, config: Config, joints: Any = None) -> dict[str, Any]:
    """The dataset of a network, as a dictionary, to six digits."""
    table = theories_of_depth(layers, name=name, metric=config.metric, joints=joints)
    for variable, values in table.data_vars.items():
        digits = [float(f"{v:.6g}") for v in values.values.ravel()]
        table[variable] = (values.dims, np.reshape(digits, values.shape))
    found: dict[str, Any] = table.to_dict()
    return found


def shipped(path: Path, config: Config) -> dict[str, Any]:
    """Bench of a network from its file."""
    layers = pnc.load_layers(path)
    name = f"{path.parent.name}/{path.stem.removesuffix('-seed0')}"
    return {"bench": bench(layers, name, config)}


def records(config: Config, folder: Path) -> Iterator[dict[str, Any]]:
    """Of every network, from its file or made now."""
    for path in (p for pattern in config.files for p in sorted(RESULTS.glob(pattern))):
        name = f"{path.parent.name}-{path.stem}.json"
        yield kept(folder / name, lambda _, path=path: shipped(path, config))
    for loss, batch_norm, seed in product(config.losses, (False, True), config.seeds):
        own = loss, batch_norm, seed
        yield kept(folder / f"{name_of(*own)}.json", lambda _, own=own: trained(config, *own))


def kind_of(network: str) -> str:
    """Architecture and loss, by which networks are counted."""
    if not re.search("/res|-res|^res|resnet", network):
        return "not residual"
    crossed = re.search("cross_entropy|-ce|public", network)
    return f"residual, {'cross-entropy' if crossed else 'squared loss'}"


def loaded(record: dict[str, Any]) -> xr.Dataset:
    """The dataset of one network's, or of all networks', record."""
    table = xr.Dataset.from_dict(record).drop_vars("stage", errors="ignore")
    return table.assign({name: v.astype(float) for name, v in table.data_vars.items()})


def markdown(table: xr.Dataset) -> str:
    """Median errors by network and theory, the least of each in bold."""
    lines = []
    for kind, block in (("in the span", IN_SPAN), ("with what is outside it", OUT_OF_SPAN)):
        names = [name for name in block if name in table["quantity"]]
        lines += [f"Median error {kind}, of {', '.join(names)}", ""]
        theories = table["model"].values.tolist()
        lines += [f"| network | judged | {' | '.join(theories)} |"]
        lines += ["|---|---|" + "---|" * len(theories)]
        error = table["error"].sel(quantity=names).median("quantity", skipna=True)
        for network in table["network"].values:
            row = error.sel(network=network).values
            cells = ["–" if np.isnan(v) else f"{v:.3f}" for v in row]
            if not np.isnan(row).all():
                best = int(np.nanargmin(row))
                cells[best] = f"**{cells[best]}**"
            judged, layers = (int(table[n].sel(network=network)) for n in ("judged", "layers"))
            lines.append(f"| {network} | {judged} of {layers} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def summary(table: xr.Dataset) -> str:
    """By kind of network: median errors of each theory, and on how many networks it is best.

    A cell is "median best+shared/judged", where best is alone and shared within 10 % of the least.
    """
    kinds = xr.DataArray([kind_of(str(n)) for n in table["network"].values], dims="network")
    lines = []
    for kind in dict.fromkeys(kinds.values.tolist()):
        own = table.sel(network=kinds == kind)
        found = standings(own)
        lines += [f"| {kind} ({own.sizes['network']}) | {' | '.join(SUMMED)} |"]
        lines += ["|---|" + "---|" * len(SUMMED)]
        for theory in table["model"].values:
            cells = []
            for quantity in SUMMED:
                at = found.sel(model=theory, quantity=quantity)
                best, shared, of = (int(at[n]) for n in ("best", "shared", "of"))
                cells.append(f"{float(at['median']):.3f} {best}+{shared}/{of}" if of else "–")
            lines.append(f"| {theory} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "one shipped network and four of a few epochs")
    config = Config()
    if chosen.quick:
        few = ("equal_width/*cross_entropy*.safetensors",)
        config = Config(files=few, seeds=(0,), blocks=2, epochs=2, samples=200)
    if is_finished(chosen.output / "result.json", config):
        return
    found = list(records(config, runs_folder(chosen.output, config)))
    benches = [loaded(record["bench"]) for record in found]
    own = [record for record in found if "straightness" in record]
    result = {
        "manifest": manifest(config),
        "bench": xr.concat(benches, dim="layer", combine_attrs="override").to_dict(),
        "trained": [
            {k: v for k, v in record.items() if k != "bench"}
            | {"network": record["bench"]["coords"]["network"]["data"][0]}
            for record in own
        ],
    }
    write_json(chosen.output / "result.json", result)
    text = markdown(bench_table(benches))
    with replacing(chosen.output / "table.md") as temporary:
        temporary.write_text(text, encoding="utf8")
    print(text)


if __name__ == "__main__":
    main()

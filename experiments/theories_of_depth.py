"""Every theory of depth on every network whose layers are shipped, and on residual MLPs.

Each layer is left out in its turn (`perturb_nc.study.theories_of_depth`), placed by NC1 in the span
of the class means; some networks once more, placed by NC1. Shipped are the class statistics under
experiments/results/; the residual MLPs (digits, squared loss and cross-entropy, with and without
batch norm, three seeds each) are trained here, for their joint statistics and their straightness.
What is computed stands in parts (`PARTS`), one file each, so that a theory or a network more does
not make the others again; `placed` puts them together, with the networks that others trained as
`public_networks` has them: their stages of three layers or more, up to a width of 256, placed by
NC1 in the span.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    separation_law,
    standings,
    straightness,
    straightness_of_means,
    theories_of_depth,
)
from perturb_nc.study.bench import BLOCKS, PARAMETERS
from perturb_nc.study.depth import PLACING
from perturb_nc.study.rivals import stages
from perturb_nc.study.theories import THEORIES
from perturb_nc.study.verdict import block_errors

SUMMED = {
    "in_span": ("nc1", "nc1_span", "directional_cdnv", "span_eigenvalues", "nc2_etf",
                "nc2_equiangular", "discrimination"),
    "out_of_span": ("nc1_trace", "cdnv", "top_eigenvalues"),
}  # fmt: skip
TITLES = {"in_span": "in the span", "out_of_span": "with what is outside it"}
Joints = dict[tuple[str, str], Any]
FOLDER = RESULTS / "theories_of_depth"
PUBLIC = RESULTS / "public_networks"
OTHERS = ("resnet56_cifar10", "vgg16_cifar10")  # its networks with stages of three layers


FIRST = (
    "central_path", "chain", "straight_line", "straight_line_displacement", "straight_line_placed",
    "equi_separation", "load_curve", "deep_linear", "shrinkage", "interpolation", "local",
    "unchanged",
)  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The networks, where the shipped ones are and what is trained, and the theories."""

    theories: tuple[str, ...] = FIRST
    files: tuple[str, ...] = SHIPPED
    metrics: tuple[str, ...] = ("nc1_span", "nc1")
    again: tuple[str, ...] = ("equal_width/*.safetensors",)  # placed by the later metrics too,
    again_losses: tuple[str, ...] = ("mse",)  # and of those that are trained
    losses: tuple[str, ...] = ("mse", "cross_entropy")
    seeds: tuple[int, ...] = (0, 1, 2)
    blocks: int = 8
    epochs: int = 60
    learning_rate: float = 0.02
    weight_decay: float = 1e-3
    samples: int | None = None


PARTS = {
    "result": Config(),
    "chain_placed": Config(
        theories=("chain_placed",),
        metrics=("nc1_span",),
        files=(
            "depth_calibration/digits-res-[bc]*.safetensors",
            "depth_calibration/digits-res-wd0.001*.safetensors",
            "depth_calibration/digits-res-wd0.005-*.safetensors",
        ),
        losses=(),
    ),
    "chain_decay": Config(
        theories=("chain_decay",),
        metrics=("nc1_span",),
        files=("depth_calibration/digits-res-wd*.safetensors",),
        losses=(),
    ),
    "cross_entropy": Config(
        metrics=("nc1",),
        files=("depth_calibration/digits-res-ce-*.safetensors",),
        losses=("cross_entropy",),
    ),
}
"""What is made: by name of the file."""
QUICK = ("result", "chain_placed")


def network(config: Config, loss: str, batch_norm: bool, seed: int) -> tuple[Joints, float]:
    """Joint statistics of all pairs of layers of a residual MLP, and its train accuracy."""
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
    return joints, history[-1].accuracy


def layers_of(joints: Joints) -> dict[str, pnc.ClassStatistics]:
    """The layers of joint statistics of all pairs, in order of depth."""
    start, _ = next(iter(joints))
    layers = {start: next(iter(joints.values())).first}
    return layers | {last: both.last for (first, last), both in joints.items() if first == start}


def trained(config: Config, metric: str, loss: str, batch_norm: bool, seed: int) -> dict[str, Any]:
    """Bench and straightness of a network that is trained for it."""
    joints, accuracy = network(config, loss, batch_norm, seed)
    straight = straightness(joints)
    name = name_of(loss, batch_norm, seed)
    found = bench(layers_of(joints), name, metric, config.theories, joints)
    return found | {
        "train_accuracy": accuracy,
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


def bench(
    layers: dict[str, pnc.ClassStatistics],
    name: str,
    metric: str,
    theories: tuple[str, ...],
    joints: Joints | None = None,
) -> dict[str, Any]:
    """The dataset of a network, as a dictionary, to six digits; and what its stages are like."""
    table = theories_of_depth(layers, name=name, metric=metric, joints=joints, theories=theories)
    for variable, values in table.data_vars.items():
        digits = [float(f"{v:.6g}") for v in values.values.ravel()]
        table[variable] = (values.dims, np.reshape(digits, values.shape))
    long = [stage for stage in stages(layers, metric) if not stage.is_alone]
    return {"network": name, "bench": table.to_dict(), "stages": [laws(s.layers) for s in long]}


def laws(layers: dict[str, pnc.ClassStatistics]) -> dict[str, Any]:
    """The law of equi-separation of a stage, and how straight its class means go."""
    law = separation_law([pnc.collapse_metrics(s).nc1_parker for s in layers.values()])
    return {
        "layers": list(layers),
        "rate": law.rate,
        "correlation": law.correlation,
        "curvature": law.curvature,
        "line_shape_of_means": straightness_of_means(layers).line_shape,
    }


def shipped(path: Path, metric: str, theories: tuple[str, ...]) -> dict[str, Any]:
    """Bench of a network from its file."""
    name = f"{path.parent.name}/{path.stem.removesuffix('-seed0')}"
    return bench(pnc.load_layers(path), name, metric, theories)


def records(config: Config, metric: str, folder: Path) -> Iterator[dict[str, Any]]:
    """Of every network, from its file or made now."""
    files, losses = config.again, config.again_losses
    if metric == config.metrics[0]:
        files, losses = config.files, config.losses
    for path in (p for pattern in files for p in sorted(RESULTS.glob(pattern))):
        name = f"{metric}-{path.parent.name}-{path.stem}.json"
        yield kept(folder / name, lambda _, path=path: shipped(path, metric, config.theories))
    for loss, batch_norm, seed in product(losses, (False, True), config.seeds):
        own = loss, batch_norm, seed
        name = f"{metric}-{name_of(*own)}.json"
        yield kept(folder / name, lambda _, own=own: trained(config, metric, *own))


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


def placed(folder: Path, metric: str) -> tuple[list[xr.Dataset], list[dict[str, Any]]]:
    """The bench of every network placed by a metric, with all theories, and what else is known."""
    networks: dict[str, dict[str, Any]] = {}
    tables: dict[str, list[xr.Dataset]] = {}
    for part in PARTS:
        path = folder / f"{part}.json"
        found = json.loads(path.read_text(encoding="utf8"))["placed"] if path.is_file() else {}
        if metric not in found:
            continue
        whole = loaded(found[metric]["bench"])
        for row in found[metric]["networks"]:
            name = row["network"]
            networks.setdefault(name, row)
            tables.setdefault(name, []).append(whole.isel(layer=whole["network"] == name))
    for table, row in public() if metric == PLACING else ():
        networks[row["network"]], tables[row["network"]] = row, [table]
    return [together(own) for own in tables.values()], list(networks.values())


def public() -> Iterator[tuple[xr.Dataset, dict[str, Any]]]:
    """Bench and laws of the networks that others trained."""
    for stem in OTHERS:
        record = json.loads((PUBLIC / f"{stem}.json").read_text(encoding="utf8"))
        every = [loaded(own) for own in record["depth"].values()]
        long = [own for own in every if own.sizes["layer"] > 1]
        name = f"{PUBLIC.name}/{stem}"
        table = xr.concat(long, dim="layer", combine_attrs="override")
        network = ("layer", [name] * table.sizes["layer"])
        yield table.assign_coords(network=network), {"network": name}


def together(tables: list[xr.Dataset]) -> xr.Dataset:
    """What several parts say of one network: all theories, in their order."""
    first = tables[0]
    for table in tables[1:]:
        if not np.allclose(table["measured"], first["measured"], rtol=1e-4, equal_nan=True):
            raise ValueError(f"the parts hold other measurements of {first['network'].values[0]}")
    names = [name for name, v in first.data_vars.items() if "model" in v.dims]
    own = [t[names].reindex(parameter=[*PARAMETERS]) for t in tables]
    both = xr.concat(own, dim="model").reindex(model=list(THEORIES))
    return first.drop_dims(("model", "parameter")).assign(both.data_vars)


def markdown(table: xr.Dataset) -> str:
    """Median errors by network and theory, the least of each in bold."""
    lines = []
    for block, names in BLOCKS.items():
        lines += [f"Median error {TITLES[block]}, of {', '.join(names)}", ""]
        lines += [f"| network | judged | {' | '.join(THEORIES)} |"]
        lines += ["|---|---|" + "---|" * len(THEORIES)]
        error = block_errors(table).sel(block=block)
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


def summary(table: xr.Dataset, metric: str) -> str:
    """By kind of network and block: what a theory sees, its errors, and where it is best.

    A cell is "median best+shared/judged", where best is alone and shared within 10 % of the least.
    The metric that places the layers is judged for none.
    """
    kinds = xr.DataArray([kind_of(str(n)) for n in table["network"].values], dims="network")
    lines = []
    for kind, block in product(dict.fromkeys(kinds.values.tolist()), SUMMED):
        own = table.sel(network=kinds == kind)
        found = standings(own)
        quantities = [q for q in SUMMED[block] if q != metric]
        lines += [
            f"| {kind} ({own.sizes['network']}), {TITLES[block]} | {' | '.join(quantities)} |",
            "|---|" + "---|" * len(quantities),
        ]
        for theory in THEORIES:
            cells = []
            for quantity in quantities:
                at = found.sel(model=theory, quantity=quantity)
                best, shared, of = (int(at[n]) for n in ("best", "shared", "of"))
                cells.append(f"{float(at['median']):.3f} {best}+{shared}/{of}" if of else "–")
            lines.append(f"| {theory} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def gathered(config: Config, metric: str, folder: Path) -> dict[str, Any]:
    """Every network with layers placed by one metric."""
    found = list(records(config, metric, folder))
    benches = [loaded(record["bench"]) for record in found]
    return {
        "bench": xr.concat(benches, dim="layer", combine_attrs="override").to_dict(),
        "networks": [{k: v for k, v in record.items() if k != "bench"} for record in found],
    }


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "one shipped network and four of a few epochs")
    parts = PARTS
    if chosen.quick:
        few = {"metrics": ("nc1_span",), "seeds": (0,), "blocks": 2, "epochs": 2, "samples": 200}
        files = ("equal_width/*cross_entropy*.safetensors",)
        losses, each = PARTS["result"].losses, few | {"files": files}
        parts = {n: replace(p, losses=losses, **each) for n, p in PARTS.items() if n in QUICK}
    for part, config in parts.items():
        path = chosen.output / f"{part}.json"
        if is_finished(path, config):
            continue
        folder = runs_folder(chosen.output / part, config)
        found = {metric: gathered(config, metric, folder) for metric in config.metrics}
        write_json(path, {"manifest": manifest(config), "placed": found})
    for metric in parts["result"].metrics:
        text = markdown(bench_table(placed(chosen.output, metric)[0]))
        with replacing(chosen.output / f"table_{metric}.md") as temporary:
            temporary.write_text(text, encoding="utf8")
        print(text)


if __name__ == "__main__":
    main()

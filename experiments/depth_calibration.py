"""Do the layers of real networks lie on the central path? Placed by one metric, judged by others.

Trains residual MLPs and MLPs of equal width (with and without batch norm, several weight decays,
squared loss and cross-entropy) on digits and Fashion-MNIST, measures every layer, and places the
layers on the path from the first one. The statistics are kept, so that the calibration can be
redone without training.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, manifest
from perturb_nc.networks import MLP, ResidualMLP, TrainingConfig, batches, load_dataset, train
from perturb_nc.storage import replacing, write_json
from perturb_nc.study.depth import COMPARED, calibrate_depth

FOLDER = RESULTS / "depth_calibration"


@dataclass(frozen=True)
class Network:
    """One network: five blocks (residual) or six (plain) of one width."""

    data: str
    residual: bool
    width: int
    weight_decay: float
    last_layer_weight_decay: float | None = None
    loss: str = "mse"
    batch_norm: bool = False
    epochs: int = 150
    learning_rate: float = 0.05

    @property
    def name(self) -> str:
        """Short and unique."""
        kind = ("res" if self.residual else "mlp") + ("-bn" if self.batch_norm else "")
        loss = "-ce" if self.loss == "cross_entropy" else ""
        last = self.last_layer_weight_decay
        head = "" if last is None else f"-head{last:g}"
        return f"{self.data}-{kind}{loss}-wd{self.weight_decay:g}{head}"

    @property
    def decay_of_last_layer(self) -> float:
        """Weight decay of the last layer: λ_W / K for the squared loss."""
        last = self.last_layer_weight_decay
        return self.weight_decay if last is None else last


def _digits(residual: bool, decay: float, **changes: Any) -> Network:
    return Network("digits", residual, 64, decay, **changes)


def _fashion(residual: bool, decay: float, rate: float, **changes: Any) -> Network:
    return Network("fashion_mnist", residual, 128, decay, epochs=15, learning_rate=rate, **changes)


@dataclass(frozen=True)
class Config:
    """The networks and the ways to calibrate."""

    networks: tuple[Network, ...] = field(
        default_factory=lambda: (
            _digits(True, 5e-3),
            _digits(True, 1e-3),
            _digits(True, 5e-3, last_layer_weight_decay=1e-3),
            _digits(True, 1e-3, last_layer_weight_decay=5e-3),
            _digits(True, 1e-3, last_layer_weight_decay=2e-2),
            _digits(True, 1e-3, batch_norm=True),
            _digits(True, 1e-3, loss="cross_entropy"),
            _digits(False, 2e-3),
            _digits(False, 5e-4),
            _fashion(True, 1e-3, 0.02),
            _fashion(True, 2e-4, 0.01),
            _fashion(True, 1e-3, 0.005, batch_norm=True),
            _fashion(False, 1e-3, 0.05),
            _fashion(False, 2e-4, 0.05),
        )
    )
    metrics: tuple[str, ...] = ("nc1_trace", "nc1_span", "nc1")
    seed: int = 0


def layers_of(network: Network, folder: Path, seed: int) -> dict[str, pnc.ClassStatistics]:
    """Statistics of the blocks of a trained network: from its file, or by training it now."""
    path = folder / f"{network.name}.safetensors"
    if path.is_file():
        return pnc.load_layers(path)
    data = load_dataset(network.data)
    torch.manual_seed(seed)
    in_dim, options = data.inputs[0].numel(), {"batch_norm": network.batch_norm}
    if network.residual:
        model = ResidualMLP(in_dim, network.width, 5, data.num_classes, **options)
    else:
        model = MLP(in_dim, (network.width,) * 6, data.num_classes, **options)
    epochs = network.epochs
    config = TrainingConfig(
        epochs=epochs,
        batch_size=64,
        learning_rate=network.learning_rate,
        milestones=(epochs // 2, 3 * epochs // 4) if epochs >= 4 else (),
        weight_decay=network.weight_decay,
        last_layer_weight_decay=network.last_layer_weight_decay,
        loss=network.loss,
        seed=seed,
    )
    history = train(model, data, config)
    blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
    names = (["embed"] if network.residual else []) + blocks
    statistics = pnc.collect_statistics(model, batches(data, 1024), layers=names)
    record = {
        **asdict(network),
        "train_accuracy": history[-1].accuracy,
        "train_loss": history[-1].loss,
    }
    pnc.save_layers(statistics, path, {key: str(value) for key, value in record.items()})
    return statistics


def calibrations(
    network: Network, layers: dict[str, pnc.ClassStatistics], metrics: tuple[str, ...]
) -> Iterator[dict[str, Any]]:
    """Each metric with λ_W = K·wd, and with λ_W fitted on some layers; errors on the others."""
    names = list(layers)
    # The last layer is never held out: the interpolation is given it.
    fit = sorted({*names[2::2], names[-1]}, key=names.index)
    held_out = [name for name in names[1:] if name not in fit]
    num_classes = layers[names[0]].num_classes
    for metric in metrics:
        for lambda_w in (num_classes * network.decay_of_last_layer, None):
            c = calibrate_depth(layers, lambda_w=lambda_w, metric=metric, fit=fit, rtol=1e-5)
            judged = [name for name in held_out if name in c.placed]
            errors = {
                model: {m: c.predictions[model].errors(c.stage, m) for m in COMPARED}
                for model in MODELS
            }
            yield {
                "network": network.name,
                "metric": metric,
                "fitted": lambda_w is None,
                "lambda_w": c.lambda_w,
                "decay_lambda_w": num_classes * network.decay_of_last_layer,
                "times": c.times,
                "held_out": held_out,
                "placed": list(c.placed),
                "errors": {
                    model: {m: {n: found[n] for n in judged} for m, found in of.items()}
                    for model, of in errors.items()
                },
                "measured": {n: m.as_dict() for n, m in c.measured.items()},
                "path": {n: c.path.metrics[n].as_dict() for n in c.placed},
            }


MODELS = ("path", "shrinkage", "interpolation")
JUDGED = ("nc1", "nc1_span", "nc1_trace", "cdnv", "nc2_etf")


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: median |log(predicted/measured)| over the held-out layers that were placed."""
    lines = [
        "Median |log(predicted/measured)| on held-out layers: path / shrinkage / interpolation.",
        "λ_W: `K·wd` is that of the last layer's weight decay, `fit` was fitted on other layers.",
        "",
        f"| network | placed by | λ_W | layers placed | {' | '.join(JUDGED)} |",
        f"|---|---|---|---|{'---|' * len(JUDGED)}",
    ]
    for row in rows:
        cells = []
        for metric in JUDGED:
            errors = [list(row["errors"][model][metric].values()) for model in MODELS]
            cells.append(" / ".join(f"{median(e):.3f}" if e else "–" for e in errors))
        how = "fit" if row["fitted"] else "K·wd"
        placed = f"{len(row['placed'])} of {len(row['times'])}"
        line = (row["network"], row["metric"], f"{row['lambda_w']:.3g} ({how})", placed, *cells)
        lines.append(f"| {' | '.join(line)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "two small networks, few epochs")
    config = Config()
    if chosen.quick:
        first = replace(config.networks[0], epochs=20)
        config = replace(config, networks=(first,), metrics=("nc1_trace",))
    if is_finished(chosen.output / "calibrations.json", config):
        return
    rows = []
    for network in config.networks:
        layers = layers_of(network, chosen.output, config.seed)
        rows.extend(calibrations(network, layers, config.metrics))
        print(f"{network.name}: calibrated", flush=True)
    path = chosen.output / "calibrations.json"
    write_json(path, {"manifest": manifest(config), "rows": rows})
    with replacing(chosen.output / "table.md") as temporary:
        temporary.write_text(table(rows), encoding="utf8")
    print(f"wrote {path} and table.md")


if __name__ == "__main__":
    main()

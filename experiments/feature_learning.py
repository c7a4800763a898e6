"""Feature learning layer by layer with batch norm (Rangamani et al. 2023).

Two parts. "layers": an MLP or a ConvNet is trained, and every layer measured: shares of variance
within classes over the epochs, the collapse line CDNV < 0.2, nearest-class-mean accuracy; for the
MLP also the alignment of each weight with the class means it reads, singular values, and the
reading of a weight as an associative memory M_{l+1} M_l⁺ of class means. Convolutional features are
pooled over space. "fixed" (MLP): the top layers and the last one are fixed at weights made of
simplex frames, W_l = M_{l+1} M_lᵀ, and only the first layers are trained.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import perturb_nc as pnc
from experiments.command import RESULTS, options
from experiments.resume import is_finished, kept, manifest, runs_folder
from experiments.running import BATCH, accuracy, data_for, trained
from perturb_nc import collect_statistics
from perturb_nc.metrics import collapse_depth, nc3_alignment, stable_rank
from perturb_nc.networks import MLP, ConvNet, Dataset, TrainingConfig, batches, train
from perturb_nc.storage import write_json

FOLDER = RESULTS / "feature_learning"


@dataclass(frozen=True)
class Config:
    """The setting for a CPU: width 256 for 1024, 2+8 convolutions for 2+18, and few epochs."""

    networks: tuple[tuple[str, str], ...] = (
        ("convnet", "cifar10"),
        ("mlp", "mnist"),
        ("mlp", "fashion_mnist"),
    )
    depth: int = 10  # of the MLP
    width: int = 256
    conv_depth: int = 8  # 3×3 convolutions after the two with stride
    conv_width: int = 32
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(
            epochs=10, learning_rate=0.05, milestones=(6, 8), weight_decay=5e-4
        )
    )
    trained_layers: tuple[int, ...] = (2, 3, 4, 6)
    fixed_epochs: int = 4
    samples: int | None = None
    monitored: int | None = 2_000
    seeds: tuple[int, ...] = (0,)
    kept: str = "layers-mlp-fashion_mnist-seed0"  # the run whose statistics are kept


def full() -> Config:
    """The setting of the paper. For a GPU."""
    base = Config()
    training = replace(base.training, epochs=350, milestones=(116, 233))
    return replace(
        base, width=1024, conv_depth=18, conv_width=128, training=training,
        trained_layers=(2, 3, 4, 5, 6, 7, 8, 9), fixed_epochs=350, seeds=(0, 1, 2),
    )  # fmt: skip


def mlp(config: Config, data: Dataset) -> MLP:
    """An untrained MLP with batch norm and no bias in its last layer."""
    widths = (config.width,) * config.depth
    return MLP(data.inputs[0].numel(), widths, data.num_classes, batch_norm=True)


def convnet(config: Config, data: Dataset) -> ConvNet:
    """An untrained ConvNet with batch norm and no bias in its last layer."""
    size = {"width": config.conv_width, "num_blocks": config.conv_depth}
    return ConvNet(data.inputs.shape[1], data.num_classes, **size)


def layers(config: Config, kind: str, name: str, seed: int, path: Path, device: str) -> Any:
    """Train a network and measure all its layers."""
    data, test = (data_for(name, config.samples, device, split=s) for s in ("train", "test"))
    torch.manual_seed(seed)
    model = (mlp if kind == "mlp" else convnet)(config, data).to(device)
    blocks = [f"blocks.{i}" for i in range(len(model.blocks))]
    training = replace(config.training, seed=seed)
    if kind == "convnet":
        training = replace(training, precision="bfloat16", channels_last=True)
    run = trained(
        model, data, training, path, monitored=config.monitored, layers=blocks,
        weights={blocks[-1]: "head"},
    )  # fmt: skip
    if path.stem == config.kept:
        target = path.parents[1] / f"{path.stem}.safetensors"
        pnc.save_layers(run.statistics, target, dtype=torch.float32)
    return {
        "kind": kind,
        "data": name,
        "seed": seed,
        **run.record(model, data, test),
        "collapse_depth": collapse_depth(run.statistics),
        "traces": {
            n: {"within": s.within.trace().item(), "between": s.between.trace().item()}
            for n, s in run.statistics.items()
        },
        "stable_rank": ranks(model, data, config.monitored),
        "weights": weights(model, run.statistics) if kind == "mlp" else [],
    }


@torch.no_grad()
def untrained(config: Config, name: str, seed: int, path: Path, device: str) -> Any:
    """What `weights` finds before any training: the measure of what it finds afterwards."""
    data = data_for(name, config.samples, device)
    torch.manual_seed(seed)
    model = mlp(config, data).to(device).train()
    for inputs, _ in batches(data, BATCH):  # for the statistics of batch norm
        model(inputs)
    blocks = [f"blocks.{i}" for i in range(config.depth)]
    statistics = collect_statistics(model, batches(data, BATCH), layers=blocks)
    on_cpu = {n: s.to("cpu") for n, s in statistics.items()}
    return {"data": name, "seed": seed, "weights": weights(model.eval(), on_cpu)}


@torch.no_grad()
def ranks(model: nn.Module, data: Dataset, samples: int | None) -> dict[str, float]:
    """Mean over classes of the stable rank of every layer's features, on the first samples."""
    h, found = data.inputs[:samples], {}
    if isinstance(model, MLP):
        h = h.flatten(1)
    for i, block in enumerate(model.eval().blocks):
        h = block(h)
        pooled = h.flatten(2).mean(2) if h.ndim > 2 else h
        found[f"blocks.{i}"] = stable_rank(pooled, data.labels[:samples]).nanmean().item()
    return found


@torch.no_grad()
def weights(model: MLP, statistics: dict[str, pnc.ClassStatistics]) -> list[dict[str, Any]]:
    """Every weight but the first against the class means before and after it."""
    rows = []
    for i in range(1, len(model.blocks)):
        block, before, after = model.blocks[i], *(statistics[f"blocks.{j}"] for j in (i - 1, i))
        weight = block.linear.weight.double().cpu()
        norm = block.norm
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).double().cpu()
        folded = scale[:, None] * weight  # what stands between the features: batch norm included
        span = torch.linalg.qr(before.means.mT).Q
        memory = after.means.mT @ torch.linalg.pinv(before.means.mT)
        values = torch.linalg.svdvals(weight)
        rows.append(
            {
                "layer": f"blocks.{i}",
                "alignment": nc3_alignment(before, weight).item(),
                "share_in_span": ((folded @ span).square().sum() / folded.square().sum()).item(),
                "memory_cosine": _cosine(folded, memory),
                "memory_cosine_in_span": _cosine(folded @ span @ span.mT, memory),
                "singular_values": (values / values[0])[:30].tolist(),
            }
        )
    return rows


def fix_top(model: MLP, trained_layers: int, seed: int) -> None:
    """Fix all blocks from `trained_layers` on, and the head, at weights of simplex frames."""
    generator = torch.Generator().manual_seed(seed)
    num_classes = len(model.head.weight)
    center = torch.eye(num_classes) - 1 / num_classes

    def frame(dim: int) -> Tensor:
        basis = torch.linalg.qr(torch.randn(dim, num_classes, generator=generator)).Q
        return (num_classes / (num_classes - 1)) ** 0.5 * basis @ center  # unit columns

    with torch.no_grad():
        blocks = list(model.blocks)[trained_layers:]
        before = frame((blocks[0].linear if blocks else model.head).in_features)
        for block in blocks:
            after = frame(block.linear.out_features)
            block.linear.weight.copy_(after @ before.mT)
            block.linear.bias.zero_()
            block.requires_grad_(False)
            before = after
        # Features that batch norm gives have norm √d or so; outputs are to be of order 1.
        model.head.weight.copy_(before.mT / model.head.in_features**0.5)
    model.head.requires_grad_(False)


def fixed(
    config: Config, name: str, trained_layers: int, seed: int, path: Path, device: str
) -> Any:
    """Accuracy when only the first layers are trained."""
    data, test = (data_for(name, config.samples, device, split=s) for s in ("train", "test"))
    torch.manual_seed(seed)
    model = mlp(config, data)
    fix_top(model, trained_layers, seed)
    model.to(device)
    epochs = config.fixed_epochs
    milestones = tuple(sorted({m for m in (epochs * 2 // 3, epochs * 5 // 6) if m >= 1}))
    training = replace(config.training, epochs=epochs, milestones=milestones, seed=seed)
    train(
        model, data, training, checkpoint=path.with_suffix(".pt"),
        on_epoch=lambda record: print(f"{path.name} {record}", flush=True),
    )  # fmt: skip
    return {
        "data": name,
        "trained_layers": trained_layers,
        "seed": seed,
        "train_accuracy": accuracy(model, data),
        "test_accuracy": accuracy(model, test),
    }


def _cosine(a: Tensor, b: Tensor) -> float:
    return ((a * b).sum() / (a.norm() * b.norm())).item()


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "digits, four layers", "as in the paper, for a GPU")
    config = full() if chosen.full else Config()
    if chosen.quick:
        training = replace(config.training, epochs=4, milestones=(3,))
        config = replace(
            config, networks=(("mlp", "digits"),), depth=4, width=32, training=training,
            trained_layers=(1, 3), fixed_epochs=4, kept="layers-mlp-digits-seed0",
        )  # fmt: skip
    if is_finished(chosen.output / "result.json", config):
        return
    runs = runs_folder(chosen.output, config)
    result: dict[str, Any] = {"manifest": manifest(config)}
    result |= {"layers": [], "untrained": [], "fixed": []}
    for seed in config.seeds:
        for kind, name in config.networks:
            result["layers"].append(
                kept(
                    runs / f"layers-{kind}-{name}-seed{seed}.json",
                    lambda path, a=(kind, name, seed): layers(config, *a, path, chosen.device),
                )
            )
        for name in (data for kind, data in config.networks if kind == "mlp"):
            result["untrained"].append(
                kept(
                    runs / f"untrained-{name}-seed{seed}.json",
                    lambda path, a=(name, seed): untrained(config, *a, path, chosen.device),
                )
            )
            for count in config.trained_layers:
                result["fixed"].append(
                    kept(
                        runs / f"fixed-{name}-{count}-seed{seed}.json",
                        lambda path, a=(name, count, seed): fixed(config, *a, path, chosen.device),
                    )
                )
    write_json(chosen.output / "result.json", result)
    for row in result["fixed"]:
        print(row)


if __name__ == "__main__":
    main()

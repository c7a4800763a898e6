"""Networks trained here to the terminal phase: every block at every epoch, and what is kept.

The squared loss without a bias (the model's) and cross-entropy with one, on CIFAR-10 without
augmentation, so that the training images can be learned. A piece that runs out of time goes on from
its last epoch.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import perturb_nc as pnc
from experiments.accelerator.setting import Piece, Setting
from experiments.depthwise_layerwise import Config as Layerwise
from experiments.depthwise_layerwise import layerwise
from experiments.public_features import block_names
from experiments.running import accuracy, trained
from experiments.weight_decay import DECAYS
from experiments.weight_decay import full as published_decay
from perturb_nc.measure import joint_statistics
from perturb_nc.networks import VGG, Dataset, ResNet, TrainingConfig, batches, load_dataset
from perturb_nc.networks.convolutional import VGG_STAGES
from perturb_nc.storage import read_tensors, write_tensors
from perturb_nc.study.rivals import stages

SEEDS = (0, 1, 2)
LOSSES = ("mse", "cross_entropy")
_SAMPLED = 100  # of each class, of the last blocks, at three epochs
_MEASURED = 5_000  # images at every epoch
_SHARES = (0.1, 0.4, 1.0)  # of the epochs, at which samples are kept


@dataclass(frozen=True)
class Training:
    """A network and how it is trained."""

    build: Callable[[str, int], nn.Module]  # loss, width
    width: int
    epochs: int
    learning_rate: float
    sampled: int = 2  # last blocks
    tiny_width: int = 4


NETWORKS = {
    "resnet18": Training(
        lambda loss, width: ResNet(3, 10, width=width, bias_last=loss != "mse"), 64, 40, 0.05
    ),
    "equal-width": Training(
        lambda loss, width: ResNet(
            3, 10, stages=(1, 1, 9), width=width, bias_last=loss != "mse"
        ), 16, 60, 0.05,
    ),
    "vgg16": Training(
        lambda loss, width: VGG(
            3, 10, stages=VGG_STAGES[16], width=width, hidden=(), batch_norm=True,
            bias_last=loss != "mse",
        ), 64, 40, 0.02, sampled=1,
    ),
}  # fmt: skip


def data(setting: Setting, split: str = "train") -> Dataset:
    """CIFAR-10 on the device; a few random images for a rehearsal without it."""
    try:
        found = load_dataset("cifar10", split=split)
    except FileNotFoundError:
        if not setting.tiny:
            raise
        labels = torch.arange(200) % 10
        found = Dataset("random", torch.randn(200, 3, 32, 32) + 0.1 * labels[:, None, None, None],
                        labels, 10)  # fmt: skip
    if setting.tiny:
        found = Dataset(found.name, found.inputs[:120], found.labels[:120], found.num_classes)
    return found.to(setting.device)


def rows_of_each_class(labels: Tensor, number: int) -> Tensor:
    """The first samples of each class, in order."""
    classes = labels.unique().tolist()
    rows = [(labels == k).nonzero().flatten()[:number] for k in classes]
    return torch.cat(rows).sort().values


def network(kind: str, loss: str, seed: int, setting: Setting, name: str) -> dict[str, Any]:
    """Train, measure every block at every epoch, keep statistics, cross-covariances, samples."""
    known, images = NETWORKS[kind], data(setting)
    torch.manual_seed(seed)
    model = known.build(loss, known.tiny_width if setting.tiny else known.width).to(setting.device)
    config = TrainingConfig(
        epochs=2 if setting.tiny else known.epochs,
        batch_size=32 if setting.tiny else 128,
        learning_rate=known.learning_rate,
        schedule="one_cycle",
        loss=loss,
        precision="bfloat16",
        channels_last=True,
        seed=seed,
    )
    return measured(model, images, config, known.sampled, setting, name)


def measured(
    model: nn.Module,
    images: Dataset,
    config: TrainingConfig,
    sampled: int,
    setting: Setting,
    name: str,
) -> dict[str, Any]:
    """The record of a training run, and its files."""
    layers, samples = block_names(model), setting.state / f"{name}-samples.safetensors"
    chosen = rows_of_each_class(images.labels, 5 if setting.tiny else _SAMPLED)
    epochs = {max(1, round(share * config.epochs)) for share in _SHARES}

    def on_epoch(record: Any) -> None:
        if record.epoch in epochs:
            kept = read_tensors(samples)[0] if samples.is_file() else {}
            x = images.inputs[chosen], images.labels[chosen]
            found, labels = pnc.collect_features(model, [x], layers=layers[-sampled:])
            kept |= {f"{n}@{record.epoch}": v.half() for n, v in found.items()}
            write_tensors(samples, {**kept, "labels": labels, "index": chosen}, {})
        setting.check_time()

    run = trained(
        model, images, config, setting.state / name, monitored=_MEASURED, layers=layers,
        weights={layers[-1]: "head"}, on_epoch=on_epoch,
    )  # fmt: skip
    notes = {"data": f"{images.name}, {len(images)} training images", "training": repr(config)}
    output = setting.output / name
    pnc.save_layers(run.statistics, Path(f"{output}.safetensors"), notes, dtype=torch.float32)
    write_tensors(Path(f"{output}-samples.safetensors"), read_tensors(samples)[0], notes)
    write_tensors(Path(f"{output}-cross.safetensors"), cross(model, images, run.statistics), notes)
    record = {
        **run.record(model, images, data(setting, "test")),
        "train_accuracy": accuracy(model, images),
        "training": asdict(config),
        "sampled_epochs": sorted(epochs),
    }
    forget(setting, name)
    return record


def forget(setting: Setting, name: str) -> None:
    """Remove the checkpoint and the metrics of a run that is finished."""
    for path in setting.state.glob(f"{name}*"):
        path.unlink()


def cross(
    model: nn.Module, images: Dataset, statistics: dict[str, pnc.ClassStatistics]
) -> dict[str, Tensor]:
    """ "first|last" → the within-class covariance between the ends of every stage, float32."""
    ends = [(s.names[0], s.names[-1]) for s in stages(statistics, "nc1") if not s.is_alone]
    found = joint_statistics(model, batches(images, 250), ends)
    return {f"{first}|{last}": pair.cross.float() for (first, last), pair in found.items()}


def layer_by_layer(seed: int, setting: Setting, name: str) -> dict[str, Any]:
    """Layer-wise training of Tirer et al., Fig. 2: an MLP of the published width, all images."""
    training = replace(Layerwise().training, epochs=30, milestones=(20, 27))
    config = replace(Layerwise(), width=1024, training=training, kept="")
    if setting.tiny:
        training = replace(training, epochs=1, milestones=())
        config = Layerwise(("digits",), 2, 16, training=training, kept="")
    return layerwise(
        config, config.data[0], seed, setting.state / f"{name}.json", str(setting.device)
    )


def decay(loss: str, which: str, seed: int, setting: Setting, name: str) -> dict[str, Any]:
    """One pair of weight decays of Tirer et al., Fig. 3, in the published setting."""
    published, images = published_decay(), data(setting)
    features, last = DECAYS[which]
    torch.manual_seed(seed)
    width = 4 if setting.tiny else published.width
    model = ResNet(3, 10, stages=published.stages, width=width, bias_last=loss != "mse")
    config = replace(
        published.training, loss=loss, weight_decay=features, last_layer_weight_decay=last,
        seed=seed,
    )  # fmt: skip
    if setting.tiny:
        config = replace(config, epochs=1, milestones=(), batch_size=60)
    final = f"blocks.{len(model.blocks) - 1}"
    run = trained(
        model.to(setting.device), images, config, setting.state / name, monitored=_MEASURED,
        layers=[final], weights={final: "head"}, on_epoch=lambda _: setting.check_time(),
    )  # fmt: skip
    path = setting.output / f"{name}.safetensors"
    pnc.save_layers(run.statistics, path, dtype=torch.float32)
    record = {"loss": loss, "decay": which, **run.record(model, images, data(setting, "test"))}
    forget(setting, name)
    return record


def pieces(kinds: Sequence[str], seeds: Sequence[int]) -> list[Piece]:
    """Networks of these kinds, both losses."""
    return [
        Piece(f"{kind}-{loss}-seed{seed}", partial(network, kind, loss, seed))
        for seed in seeds
        for kind in kinds
        for loss in LOSSES
    ]


def decay_pieces(seeds: Sequence[int]) -> list[Piece]:
    """Every pair of decays, the squared loss first."""
    return [
        Piece(
            f"decay-{loss}-{which.replace(' ', '-')}-seed{seed}", partial(decay, loss, which, seed)
        )
        for seed in seeds
        for loss in LOSSES
        for which in DECAYS
    ]


def layerwise_pieces(seeds: Sequence[int]) -> list[Piece]:
    """Layer-wise training."""
    return [Piece(f"layerwise-seed{seed}", partial(layer_by_layer, seed)) for seed in seeds]

"""Networks that others trained: every block measured, and asked of the theory.

All training and test images of CIFAR-10 (of MNIST for one), features pooled over space. ResNet-56
and VGG-16 were trained on the first 45,000 training images: their collapse is that of these, the
other 5,000 are held out. The statistics of ResNet-18 are those of `public_resnet`, of all training
images; what needs features is from fewer of them. For each network there are

- NAME.json: of every block the metrics on the images it was trained on, debiased, with 95 %
  intervals (jackknife), on all 50,000, test collapse, and nearest-mean classification; of every
  stage (blocks of one width) how straight the way through it is, what every theory of depth says of
  it, and the model fitted to its ends; of the first images the metrics without pooling;
- NAME.safetensors: class statistics (float32) of the images it was trained on;
- cross/NAME.safetensors: the within-class covariances between the ends of the stages, see `joints`;
- samples/NAME.safetensors: features (float16) of the first images of each class, for theories that
  need samples.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import perturb_nc as pnc
from experiments.command import options
from experiments.public_features import (
    LABELS,
    OUTPUTS,
    Pieces,
    batches_of,
    block_names,
    features,
)
from experiments.public_joints import (
    BEFORE,
    FOLDER,
    blocks_of,
    joints,
    recoloured,
    statistics_file,
)
from experiments.public_tables import tables
from experiments.public_theory import depth, fits, vicinity
from experiments.resume import is_finished, kept, manifest, runs_folder
from perturb_nc.measure import JointStatistics
from perturb_nc.metrics import (
    debiased_metrics,
    feature_ranks,
    held_out_nc1,
    nc4_accuracy,
    nc4_vs_network,
    vci,
)
from perturb_nc.networks import Dataset
from perturb_nc.networks.public import PUBLIC_NETWORKS, public_inputs, public_network
from perturb_nc.storage import replacing, write_json, write_tensors
from perturb_nc.study.straight_line import all_pairs, straightness

WIDEST = 512  # of shipped statistics
WIDEST_STAGE = 256  # of theories of depth: wider ones take an hour
SAMPLED = {  # so many of each class, of these layers: the ends of stages, and the last stage
    "resnet56_cifar10": (200, ("stem", *(f"blocks.{i}" for i in (8, 9, *range(17, 27))))),
    "vgg16_cifar10": (100, ("blocks.9", "blocks.12", "blocks.13")),
    "cnn_cifar10": (100, ("blocks.5", "blocks.7")),
    "cnn_mnist": (100, ("blocks.1", "blocks.2")),
    "resnet18_cifar10": (100, ("blocks.6", "blocks.7")),
}
NETWORKS = ("resnet56_cifar10", "cnn_mnist", "cnn_cifar10", "resnet18_cifar10", "vgg16_cifar10")
LIMITED = {  # images of training, of test and unpooled, where a CPU had no time for more
    "vgg16_cifar10": (5_000, 2_500, 1_000),
    "cnn_cifar10": (20_000, 5_000, 5_000),
    "resnet18_cifar10": (5_000, None, None),
}


@dataclass(frozen=True)
class Config:
    """What is measured, and in which pieces."""

    images: int | None = None  # of each split; all, or as in LIMITED
    piece: int = 2_500
    batch_size: int = 125
    unpooled: int = 5_000
    theory: bool = True


@dataclass(frozen=True)
class Layer:
    """A layer on the images that the network was trained on, on those held out, and on test."""

    features: Tensor
    labels: Tensor
    trained: pnc.ClassStatistics
    held_out: pnc.ClassStatistics | None
    test: pnc.ClassStatistics

    def record(self, test: Tensor, guesses: Mapping[str, Tensor], weight: Any) -> dict[str, Any]:
        """Everything that is measured of it; `test` are the features of the test images."""
        whole = self.trained if self.held_out is None else self.trained.merge(self.held_out)
        intervals = pnc.sampling_intervals({"": self.features}, self.labels).sel(layer="")
        return {
            "trained": pnc.collapse_metrics(self.trained, weight).as_dict(),
            "debiased": debiased_metrics(self.trained).as_dict(),
            "intervals": {
                str(q): intervals.sel(quantity=q).values.tolist()
                for q in intervals["quantity"].values
            },
            "all_training_images": pnc.collapse_metrics(whole).as_dict(),
            "test": pnc.collapse_metrics(self.test).as_dict(),
            "test_collapse": held_out_nc1(self.trained, self.test),
            "vci": vci(self.trained),
            "ranks": feature_ranks(self.trained).as_dict(),
            "nearest_mean": {
                "trained": nc4_accuracy(self.trained, self.features, self.labels),
                "test": nc4_accuracy(self.trained, test, guesses["test_labels"]),
                "trained_against_network": nc4_vs_network(
                    self.trained, self.features, guesses["trained"]
                ),
                "test_against_network": nc4_vs_network(self.trained, test, guesses["test"]),
            },
        }


def layers_of(
    train: Pieces, test: Pieces, trained_on: int, known: Mapping[str, pnc.ClassStatistics]
) -> Iterator[tuple[str, Layer, Tensor]]:
    """Every layer with its features of the test images; its statistics are those that are known."""
    y, other = train.read(LABELS), test.read(LABELS)
    for name in train.layers:
        x, x_test = train.read(name), test.read(name)
        held_out = None
        if len(x) > trained_on:
            held_out = pnc.ClassStatistics.from_features(x[trained_on:], y[trained_on:], 10)
        x, labels = x[:trained_on], y[:trained_on]
        trained = known.get(name) or pnc.ClassStatistics.from_features(x, labels, 10)
        tested = pnc.ClassStatistics.from_features(x_test, other, 10)
        yield name, Layer(x, labels, trained, held_out, tested), x_test


def limits(name: str, config: Config) -> tuple[int | None, int | None, int | None]:
    """How many images of training, of test, and unpooled."""
    if config.images:
        return config.images, config.images, config.unpooled
    return LIMITED.get(name, (None, None, config.unpooled))


def measure(name: str, config: Config, output: Path) -> dict[str, Any]:
    """The record of a network, and its files of statistics and samples."""
    known = PUBLIC_NETWORKS[name]
    sizes = {"piece": config.piece, "batch_size": config.batch_size}
    train, test = (
        features(name, split, output / "pieces", images=limit, **sizes)
        for split, limit in zip(("train", "test"), limits(name, config), strict=False)
    )
    whole = blocks_of(name) if name == BEFORE and output == FOLDER else {}
    y, guesses = train.read(LABELS), train.read(OUTPUTS).argmax(1)
    test_y, test_guesses = test.read(LABELS), test.read(OUTPUTS).argmax(1)
    seen = slice(known.trained_on)
    own = {"trained": guesses[seen], "test": test_guesses, "test_labels": test_y}
    head = public_network(name).get_submodule("head").weight.detach()
    records, statistics = {}, {}
    for layer, found, x_test in layers_of(train, test, known.trained_on, whole):
        weight = head if layer == train.layers[-1] else None
        records[layer] = found.record(x_test, own, weight)
        statistics[layer] = pnc.ClassStatistics.from_features(found.features, found.labels, 10)
        print(f"{name} {layer}: measured", flush=True)
    ways, ends = stages(train, statistics, known.trained_on)
    write_files(name, output, statistics | whole, ends)
    write_samples(name, output, train, known.trained_on)
    right = guesses == y
    return {
        "accuracy": {
            "trained": right[seen].double().mean().item(),
            "held_out": right[known.trained_on :].double().mean().item(),
            "test": (test_guesses == test_y).double().mean().item(),
        },
        "images": {
            "trained": (statistics | whole)[layer].num_samples,
            "held_out": len(y[seen.stop :]),
            "test": len(test_y),
            "features": len(y[seen]),
        },
        "layers": records,
        "straightness": ways,
    }


def stages(
    train: Pieces, statistics: Mapping[str, pnc.ClassStatistics], trained_on: int
) -> tuple[dict[str, Any], dict[tuple[str, str], JointStatistics]]:
    """Of every stage how straight it is, and the joint statistics of its ends."""
    ways, ends = {}, {}
    for names in runs_of_one_width(statistics):
        deviations = {name: deviation(train, statistics[name], name, trained_on) for name in names}
        pairs = {
            (a, b): JointStatistics(
                statistics[a], statistics[b], deviations[a].mT @ deviations[b] / len(deviations[a])
            )
            for a, b in all_pairs(names)
        }
        first, last = names[0], names[-1]
        way = asdict(straightness(pairs))
        ways[f"{first} to {last}"] = {k: np.asarray(v).tolist() for k, v in way.items()}
        ends[first, last] = pairs[first, last]
    return ways, ends


def runs_of_one_width(statistics: Mapping[str, pnc.ClassStatistics]) -> list[list[str]]:
    """The stages of two or more layers."""
    found: list[list[str]] = []
    for name, s in statistics.items():
        if found and statistics[found[-1][-1]].dim == s.dim:
            found[-1].append(name)
        else:
            found.append([name])
    return [names for names in found if len(names) > 1]


def deviation(train: Pieces, s: pnc.ClassStatistics, name: str, trained_on: int) -> Tensor:
    """Features minus the means of their classes (N, d), float64."""
    labels = train.read(LABELS)[:trained_on]
    return train.read(name)[:trained_on].double() - s.means[labels]


def write_files(
    name: str,
    output: Path,
    statistics: Mapping[str, pnc.ClassStatistics],
    ends: Mapping[tuple[str, str], JointStatistics],
) -> None:
    """Statistics of the layers and the covariances between the ends of stages, in float32."""
    narrow = {layer: s for layer, s in statistics.items() if s.dim <= WIDEST}

    def notes(s: pnc.ClassStatistics) -> dict[str, str]:
        return {
            "network": f"{name}, see perturb_nc.networks.public",
            "data": f"{PUBLIC_NETWORKS[name].data}, the first {s.num_samples} training images",
            "features": "outputs of the blocks, mean over space",
        }

    path = statistics_file(name, output)
    if path.parent == output:
        of = notes(next(iter(statistics.values())))
        pnc.save_layers(narrow, path, of, dtype=torch.float32)
    # Ends of wide stages without shortcuts share no basis: nothing asks for their covariance.
    widest = WIDEST if name.startswith("resnet") else WIDEST_STAGE
    shipped = {
        f"{a}|{b}": recoloured(joint, statistics[a], statistics[b]).float()
        for (a, b), joint in ends.items()
        if joint.first.dim <= widest
    }
    if shipped:
        of = notes(next(iter(ends.values())).first)
        write_tensors(output / "cross" / f"{name}.safetensors", shipped, of)


def write_samples(name: str, output: Path, train: Pieces, trained_on: int) -> None:
    """Features of the first images of each class among those trained on, in float16."""
    labels = train.read(LABELS)[:trained_on]
    number, chosen = SAMPLED[name]
    rows = torch.cat([(labels == k).nonzero().flatten()[:number] for k in range(10)])
    rows = rows.sort().values
    tensors = {layer: train.read(layer)[rows].half() for layer in chosen}
    notes = {"rows": "of the training images: `index`", "features": "mean over space, float16"}
    tensors |= {LABELS: labels[rows], "index": rows}
    write_tensors(output / "samples" / f"{name}.safetensors", tensors, notes)


def unpooled(name: str, config: Config) -> dict[str, Any]:
    """Metrics of the blocks without pooling, of the first training images."""
    model, data = public_network(name), public_inputs(name)
    rows = slice(limits(name, config)[2])
    data = Dataset(data.name, data.inputs[rows], data.labels[rows], data.num_classes)
    found = pnc.collect_statistics(
        model,
        list(batches_of(data, config.batch_size)),
        layers=block_names(model),
        reduce="flatten",
        covariance="span",
    )
    metrics = {layer: pnc.collapse_metrics(s).as_dict() for layer, s in found.items()}
    return {"images": len(data), "layers": metrics}


def network(name: str, config: Config, output: Path) -> dict[str, Any]:
    """All that is known of a network, from what is finished of it."""
    parts = runs_folder(output, config)
    record = kept(parts / f"{name}.json", lambda _: measure(name, config, output))
    if name != BEFORE:
        file = parts / f"{name}-unpooled.json"
        record |= {"unpooled": kept(file, lambda _: unpooled(name, config))}
    if config.theory:
        record |= theory(name, output, parts)
    return record


def theory(name: str, output: Path, parts: Path) -> dict[str, Any]:
    """What the theory says, where there are layers of one width for it to speak of."""
    layers, own = blocks_of(name, output), joints(name, output)
    found: dict[str, Any] = {"depth": {}}
    narrow = {layer: s for layer, s in layers.items() if s.dim <= WIDEST_STAGE}
    for names in runs_of_one_width(narrow):
        stage = {layer: layers[layer] for layer in names}
        key = f"{names[0]} to {names[-1]}"
        file = parts / f"{name}-{key.replace(' ', '-')}.json"
        found["depth"][key] = kept(file, lambda _, stage=stage: depth(stage, own, name))
    if own:
        found["fits"] = kept(parts / f"{name}-fits.json", lambda _: fits(layers))
    *_, before, last = layers.values()
    if before.dim == last.dim:
        found["vicinity"] = kept(
            parts / f"{name}-vicinity.json", lambda _: vicinity(statistics_file(name, output))
        )
    return found


def main() -> None:
    """Command line."""
    chosen = options(__doc__, FOLDER, "the first 120 images of each split, without theory")
    config = Config()
    if chosen.quick:
        config = Config(images=120, piece=60, batch_size=60, unpooled=60, theory=False)
    for name in NETWORKS:
        path = chosen.output / f"{name}.json"
        if not is_finished(path, config):
            record = network(name, config, chosen.output)
            write_json(path, {"manifest": manifest(config), "network": name, **record})
            print(f"wrote {path}", flush=True)
    with replacing(chosen.output / "tables.md") as temporary:
        temporary.write_text(tables(chosen.output, NETWORKS), encoding="utf8")


if __name__ == "__main__":
    main()

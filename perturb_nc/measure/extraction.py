"""Class statistics of every layer of a torch model, and how well their class means classify."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from perturb_nc.measure.layers import walk_layers
from perturb_nc.measure.reductions import Reduction
from perturb_nc.sample_metrics import nearest_class_mean
from perturb_nc.span_statistics import MeansBuilder, SpanBuilder, SpanStatistics
from perturb_nc.statistics import ClassStatistics, StatisticsBuilder


@overload
def collect_statistics(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    at: str = "output",
    reduce: str | Reduction = "flatten",
    num_classes: int | None = None,
    covariance: Literal["full"] = "full",
) -> dict[str, ClassStatistics]: ...


@overload
def collect_statistics(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    at: str = "output",
    reduce: str | Reduction = "flatten",
    num_classes: int | None = None,
    covariance: Literal["span"],
) -> dict[str, SpanStatistics]: ...


def collect_statistics(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    at: str = "output",
    reduce: str | Reduction = "flatten",
    num_classes: int | None = None,
    covariance: str = "full",
) -> dict[str, ClassStatistics] | dict[str, SpanStatistics]:
    """Statistics of every layer of any torch model, in order of execution, in one pass.

    The layers are the modules reached from the root by opening containers (Sequential, ModuleList,
    ModuleDict, and DataParallel/DistributedDataParallel wrappers); Dropout, Identity and Flatten
    are skipped. A wrapper at the root is left out: its inner module is run, and named, instead.
    The k-th call of a module within one forward pass is reported as "name#k" from k = 2 on.

    The model runs in eval mode without gradients, on its own device; training flags are restored
    and hooks removed whatever happens. No activation outlives its layer: memory is O(Kd + d²) a
    layer, O(Kd) with `covariance="span"`.

    Args:
        loader: (inputs, labels) batches, inputs a tensor, labels integers 0..K-1.
        layers: names as in `model.named_modules()` instead of those found.
        at: "output", or "input" for the first positional input of each layer. Of a tuple or list
            the first element is taken.
        reduce: activations (N, ...) to features (N, d): "flatten" all trailing axes, "pool" to
            their mean over all axes after the second (channels), or a function, see
            `random_projection`.
        num_classes: K; None takes the largest label.
        covariance: "full" (d×d), or "span" for features too wide for that, as unpooled
            convolutions: `SpanStatistics` of dimension K + 1 with the same metrics and for
            them alone, from two passes over the loader, which must give the same samples.

    Raises:
        ValueError: an unknown or unused layer, no batch, a first dimension that is not the batch,
            NaN or infinity in a layer, a class without samples, or, with covariance "span", a
            loader that gives its batches only once, or other samples the second time.
        TypeError: a layer that gives no tensor of floats.
        MemoryError: d×d does not fit; reduce d, or take covariance "span".
    """
    if covariance not in ("full", "span"):
        raise ValueError(f"covariance must be 'full' or 'span', got {covariance!r}")
    walk = partial(
        walk_layers, model, loader,
        layers=layers, at=at, reduce=reduce, num_classes=num_classes,
    )  # fmt: skip
    if covariance == "full":
        builders: dict[str, StatisticsBuilder] = {}

        def update(name: str, x: Tensor, y: Tensor) -> None:
            builders.setdefault(name, StatisticsBuilder(num_classes)).update(x, y)

        walk(update)
        return {name: builder.result() for name, builder in builders.items()}
    if iter(loader) is loader:
        raise ValueError(
            "loader must give its batches twice with covariance='span', and an iterator gives them "
            "once; make it a list, a DataLoader, or an object with __iter__"
        )
    first: dict[str, MeansBuilder] = {}
    walk(lambda name, x, y: first.setdefault(name, MeansBuilder(num_classes)).update(x, y))
    second = {name: SpanBuilder(*builder.result()) for name, builder in first.items()}
    walk(lambda name, x, y: second[name].update(x, y))
    return {name: _result(name, builder) for name, builder in second.items()}


def _result(name: str, builder: SpanBuilder) -> SpanStatistics:
    try:
        return builder.result()
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def collect_features(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    at: str = "output",
    reduce: str | Reduction = "flatten",
) -> tuple[dict[str, Tensor], Tensor]:
    """Features (N, d) of every layer, and the labels (N,): what `collect_statistics` reduces.

    For what needs the samples themselves, as `perturb_nc.bootstrap_intervals`. All of them are
    kept: choose layers and samples with memory in mind.

    Args:
        model, loader, layers, at, reduce: as for `collect_statistics`.

    Raises:
        ValueError, TypeError: as `collect_statistics`.
    """
    features: dict[str, list[Tensor]] = {}
    labels: dict[str, list[Tensor]] = {}

    def take(name: str, x: Tensor, y: Tensor) -> None:
        features.setdefault(name, []).append(x)
        labels.setdefault(name, []).append(y)

    walk_layers(model, loader, take, layers=layers, at=at, reduce=reduce, num_classes=None)
    first = next(iter(labels.values()))
    return {name: torch.cat(parts) for name, parts in features.items()}, torch.cat(first)


@dataclass(frozen=True)
class NearestMeanScores:
    """What the nearest class mean says at one layer, over the samples of a loader.

    Attributes:
        accuracy: share of samples given their label (`nc4_accuracy`).
        against_network: share given another class than the network's (`nc4_vs_network`).
    """

    accuracy: float
    against_network: float


def nearest_mean_scores(
    model: nn.Module,
    loader: Iterable[Any],
    statistics: Mapping[str, ClassStatistics],
    *,
    layers: Sequence[str] | None = None,
    at: str = "output",
    reduce: str | Reduction = "flatten",
) -> dict[str, NearestMeanScores]:
    """Nearest-class-mean classification at every layer in one pass.

    The class means are those of `statistics`, as `collect_statistics` with the same layers, `at`
    and `reduce` gave them on the training samples; the loader may hold other samples.

    Raises:
        ValueError: a layer without statistics, and what `collect_statistics` raises.
    """
    num_classes = next(iter(statistics.values())).num_classes
    nearest: dict[str, Tensor] = {}
    right: dict[str, int] = {}
    other: dict[str, int] = {}
    total = 0

    def take(name: str, x: Tensor, y: Tensor) -> None:
        if name not in statistics:
            raise ValueError(f"statistics hold no such layer, only {list(statistics)}")
        nearest[name] = nearest_class_mean(statistics[name], x)
        right[name] = right.get(name, 0) + int((nearest[name] == y).sum())

    def compare(outputs: Tensor, labels: Tensor) -> None:
        nonlocal total
        total += len(labels)
        for name, classes in nearest.items():
            differ = classes != outputs.argmax(1).to(classes.device)
            other[name] = other.get(name, 0) + int(differ.sum())

    walk_layers(
        model, loader, take, layers=layers, at=at, reduce=reduce, num_classes=num_classes,
        after_batch=compare,
    )  # fmt: skip
    return {
        name: NearestMeanScores(count / total, other[name] / total) for name, count in right.items()
    }

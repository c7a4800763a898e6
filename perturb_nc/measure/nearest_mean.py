"""How well the class means of every layer classify, beside the network itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perturb_nc.measure.arguments import Unpack
from perturb_nc.measure.layers import walk_layers
from perturb_nc.measure.loading import Loader
from perturb_nc.measure.modules import Layers
from perturb_nc.measure.reductions import Reduction
from perturb_nc.metrics.samples import nearest_class_mean
from perturb_nc.moments import Moments
from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.validation import instance, named


@dataclass(frozen=True, repr=False)
class NearestMeanScores(Summarised):
    """What the nearest class mean says at one layer, over the samples of a loader.

    Attributes:
        accuracy: share of samples given their label (`nc4_accuracy`).
        against_network: share given another class than the network's (`nc4_vs_network`).
    """

    accuracy: float
    against_network: float


@torch.inference_mode(False)
def nearest_mean_scores(
    model: nn.Module,
    loader: Loader,
    statistics: Mapping[str, ClassStatistics],
    *,
    layers: Layers | None = None,
    at: str = "output",
    reduce: str | Reduction = "pool",
    unpack: Unpack | None = None,
) -> dict[str, NearestMeanScores]:
    """Nearest-class-mean classification at every layer in one pass.

    The class means are those of `statistics`, as `collect_statistics` with the same layers, `at`
    and `reduce` gave them on the training samples; the loader may hold other samples. The
    network's own class is the largest of its outputs (N, K): a tensor, the first of a tuple, or
    "logits" of a dictionary.

    Raises:
        ValueError: a layer without statistics, outputs that are no (N, K), reduce "all_tokens"
            (which has no class of the network to compare with), and what `collect_statistics`
            raises.
    """
    if reduce == "all_tokens":
        raise ValueError("reduce must give one feature a sample here, got 'all_tokens'")
    instance(model, nn.Module, "model", "the order is model, loader, statistics")
    named(statistics, "statistics", "ClassStatistics")
    if not statistics:
        raise ValueError("statistics must hold at least one layer, got none")
    for name, own in statistics.items():
        instance(own, Moments, f"statistics[{name!r}]", "collect_statistics gives them")
    num_classes = next(iter(statistics.values())).num_classes
    nearest: dict[str, Tensor] = {}
    right: dict[str, int] = {}
    other: dict[str, int] = {}
    total = 0

    def take(name: str, x: Tensor, y: Tensor) -> None:
        """Classifies a batch of a layer by its nearest class mean."""
        if name not in statistics:
            raise ValueError(f"statistics hold no such layer, only {list(statistics)}")
        nearest[name] = nearest_class_mean(statistics[name], x)
        right[name] = right.get(name, 0) + int((nearest[name] == y).sum())

    def compare(outputs: Any, labels: Tensor) -> None:
        """Counts where the network says something else."""
        nonlocal total
        total += len(labels)
        predicted = _logits(outputs, len(labels), num_classes).argmax(1)
        for name, classes in nearest.items():
            differ = classes != predicted.to(classes.device)
            other[name] = other.get(name, 0) + int(differ.sum())

    walk_layers(
        model, loader, take, layers=layers, at=at, reduce=reduce, num_classes=num_classes,
        unpack=unpack, after_batch=compare,
    )  # fmt: skip
    return {
        name: NearestMeanScores(count / total, other[name] / total) for name, count in right.items()
    }


def _logits(outputs: Any, size: int, num_classes: int) -> Tensor:
    x = outputs[0] if isinstance(outputs, tuple | list) and outputs else outputs
    if isinstance(outputs, Mapping):
        x = outputs.get("logits", outputs)
    if not isinstance(x, Tensor) or x.ndim != 2 or len(x) != size or x.shape[1] < num_classes:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(
            f"the model must give outputs ({size}, K) with K >= {num_classes}, alone, first of a "
            f'tuple, or as "logits" of a dictionary, got {got}; wrap it in a module that does'
        )
    return x

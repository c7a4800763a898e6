"""Joint statistics of pairs of layers of a torch model, in one pass."""

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.layer_files import load_joint, save_joint
from perturb_nc.measure.arguments import Unpack
from perturb_nc.measure.layers import walk_layers
from perturb_nc.measure.loading import Loader
from perturb_nc.measure.reductions import Reduction
from perturb_nc.statistics import StatisticsBuilder

__all__ = ["JointStatistics", "joint_statistics", "load_joint", "save_joint"]

Pair = tuple[str, str]


@torch.inference_mode(False)
def joint_statistics(
    model: nn.Module,
    loader: Loader,
    pairs: Iterable[Pair],
    *,
    at: str = "output",
    reduce: str | Reduction = "pool",
    num_classes: int | None = None,
    unpack: Unpack | None = None,
) -> dict[Pair, JointStatistics]:
    """Class statistics of pairs of layers with the within-class covariances between them.

    One pass over the loader; features of a batch are kept until all layers of it have run. Of a
    pair of layers with d and d' features it costs a (d + d')² covariance.

    Args:
        pairs: names of (first, last) layers, as `collect_statistics` gives them ("name#k" for the
            k-th call).
        model, loader, at, reduce, num_classes, unpack: as for `collect_statistics`.

    Raises:
        ValueError: no pair, a layer that did not run, and as `collect_statistics`.
        TypeError, MemoryError: as `collect_statistics`.
    """
    chosen = list(dict.fromkeys((first, last) for first, last in pairs))
    if not chosen:
        raise ValueError('pairs must hold at least one pair of layers, as [("blocks.0", "head")]')
    names = {name for pair in chosen for name in pair}
    alone = {name: StatisticsBuilder(num_classes) for name in names}
    both = {pair: StatisticsBuilder(num_classes) for pair in chosen}
    batch: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, x: Tensor, y: Tensor) -> None:
        """Keeps a layer until all of the batch have run."""
        if name in names:
            alone[name].update(x, y)
            batch[name] = x.to(torch.float64, copy=True), y

    def join(outputs: Any, labels: Tensor) -> None:
        """Adds the pairs of a batch."""
        missing = sorted(names - batch.keys())
        if missing:
            raise ValueError(f"layers {missing} never ran in the forward pass; see pairs")
        for first, last in chosen:
            (x, y), (other, same) = batch[first], batch[last]
            if not torch.equal(y, same.to(y.device)):
                raise ValueError(
                    f"layers {first!r} and {last!r} have other samples ({len(y)} and {len(same)} "
                    "rows); reduce them to one feature a sample"
                )
            both[first, last].update(torch.cat([x, other.to(x.device)], 1), y)
        batch.clear()

    layers = list(dict.fromkeys(re.sub(r"#\d+$", "", name) for pair in chosen for name in pair))
    walk_layers(
        model, loader, keep, layers=layers, at=at, reduce=reduce, num_classes=num_classes,
        unpack=unpack, after_batch=join,
    )  # fmt: skip
    found = {name: builder.result() for name, builder in alone.items()}
    return {
        (first, last): JointStatistics(
            found[first],
            found[last],
            builder.result().within[: found[first].dim, found[first].dim :],
        )
        for (first, last), builder in both.items()
    }

"""A metric for `torchmetrics`: class statistics, accumulated and synchronised as its others."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from perturb_nc.metrics.table import collapse_metrics
from perturb_nc.statistics import ClassStatistics, StatisticsBuilder
from perturb_nc.validation import at_least

_STATES = ("counts", "means", "scatter", "class_scatter")
_NAMES = ("nc1", "nc1_trace", "nc2_etf", "cdnv")


class CollapseMetric(Metric):
    """Collapse metrics of features, batch by batch: update, compute, reset, distributed sync.

        metric = CollapseMetric(num_classes=10, dim=512)
        metric.update(features, labels)
        metric.compute()  # {"nc1": …, "nc1_trace": …, "nc2_etf": …, "cdnv": …}

    The sums of a `StatisticsBuilder` are its states, in float64; those of several processes are
    merged pair by pair, so that no common offset does harm.

    Args:
        num_classes: K.
        dim: d of the features.
        names: fields of `CollapseMetrics` that `compute` gives; None for all.
        options: of `torchmetrics.Metric`.
    """

    full_state_update = True
    higher_is_better = False

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        names: tuple[str, ...] | None = _NAMES,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        k, d = at_least(num_classes, 2, "num_classes"), at_least(dim, 1, "dim")
        self._names = names
        shapes = {"counts": (k,), "means": (k, d), "scatter": (d, d), "class_scatter": (k,)}
        for name, shape in shapes.items():
            dtype = torch.int64 if name == "counts" else torch.float64
            # No reduction: a sync stacks the states of all processes, and `statistics` merges them.
            self.add_state(name, torch.zeros(shape, dtype=dtype), dist_reduce_fx=None)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch of features (N, d) and labels (N,)."""
        builder = StatisticsBuilder.resumed({name: getattr(self, name) for name in _STATES})
        builder.update(features.detach(), labels)
        for name, value in builder.state().items():
            setattr(self, name, value)

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all batches, of all processes after a sync."""
        found = collapse_metrics(self.statistics()).as_dict()
        names = tuple(found) if self._names is None else self._names
        return {name: torch.tensor(found[name], dtype=torch.float64) for name in names}

    def statistics(self) -> ClassStatistics:
        """The class statistics of all batches, ready for `NearCollapseProblem`."""
        states: dict[str, Tensor] = {name: getattr(self, name) for name in _STATES}
        if states["counts"].ndim == 1:
            return StatisticsBuilder.resumed(states).result()
        total, *others = (
            StatisticsBuilder.resumed({name: values[i] for name, values in states.items()})
            for i in range(len(states["counts"]))
        )
        for other in others:
            total.merge(other)
        return total.result()

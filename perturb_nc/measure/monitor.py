"""CollapseMonitor: the collapse of every layer, once per epoch, for any training loop."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from perturb_nc.measure.epoch_file import EpochFile
from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.measure.loading import Loader, is_read_once
from perturb_nc.measure.modules import Layers
from perturb_nc.measure.reductions import Reduction
from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.statistics import ClassStatistics


@runtime_checkable
class ScalarWriter(Protocol):
    """What a TensorBoard `SummaryWriter` offers and is used here."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any:
        """Record one value."""


class CollapseMonitor:
    """Measures every layer of a model when called, once per epoch, in one extraction pass.

        monitor = CollapseMonitor(model, training_set, path="metrics.jsonl")
        for epoch in ...:
            ...
            monitor(epoch, loss=loss)

    or `train(..., on_epoch=monitor.on_epoch)`. The model's mode, gradients and random state are as
    before.

    Args:
        model: any torch model.
        loader: what to measure on: a `Dataset`, or (inputs, labels) batches that can be read again
            every epoch (a list, a DataLoader).
        path: file that gets every epoch as it is measured: ".jsonl" (one JSON object a line) or
            ".csv" (one row a layer). If it exists it is added to; a line that a kill cut off is
            dropped, and an epoch measured again stands there twice, of which the last counts
            (`read_epochs`). Lines of a ".jsonl" become the first `records`.
        weights: layer → module whose weight reads that layer's features, for the metrics of NC3,
            as {"blocks.5": "head"}. With at="input" every layer with a weight (m, d) reads its own.
        tensorboard: a SummaryWriter; gets "collapse/METRIC/LAYER".
        layers, at, reduce, num_classes, covariance: as for `collect_statistics`, but pooled over
            space unless `reduce` says otherwise.

    Attributes:
        records: one dictionary per epoch: "epoch", what was passed by name, "seconds" (of the
            measurement), "share" (of the time since the call before; None at first) and "layers":
            name → metric → value.
        statistics: name → `ClassStatistics` of the last call.

    Raises:
        ValueError: a path of another kind, a loader that can be read only once, an unknown module.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        *,
        path: str | Path | None = None,
        weights: Mapping[str, str] | None = None,
        tensorboard: ScalarWriter | None = None,
        layers: Layers | None = None,
        at: str = "output",
        reduce: str | Reduction = "pool",
        num_classes: int | None = None,
        covariance: str = "full",
    ) -> None:
        if is_read_once(loader):
            raise ValueError(
                "loader must be readable every epoch, and an iterator is used up by the first; "
                "give a Dataset, a list or a DataLoader"
            )
        self._model, self._loader, self._tensorboard = model, loader, tensorboard
        modules = dict(model.named_modules(remove_duplicate=False))
        self._weights = dict(weights or {})
        for layer, name in self._weights.items():
            if getattr(modules.get(name), "weight", None) is None:
                raise ValueError(f"weights must name modules with a weight, got {name!r} ({layer})")
        self._own_weights = at == "input"
        self._modules = modules
        self._options = {
            "layers": layers, "at": at, "reduce": reduce,
            "num_classes": num_classes, "covariance": covariance,
        }  # fmt: skip
        self._file = None if path is None else EpochFile(Path(path))
        self._called: float | None = None
        self.records: list[dict[str, Any]] = [] if self._file is None else self._file.read()
        self.statistics: Mapping[str, ClassStatistics | SpanStatistics] = {}

    def __call__(self, epoch: int, **scalars: float) -> dict[str, CollapseMetrics]:
        """Measure now; gives the metrics of every layer, and records them."""
        start = time.perf_counter()
        self.statistics = collect_statistics(self._model, self._loader, **self._options)  # type: ignore[call-overload]
        metrics = {
            name: collapse_metrics(statistics, self._weight(name, statistics))
            for name, statistics in self.statistics.items()
        }
        end = time.perf_counter()
        share = None if self._called is None else (end - start) / (end - self._called)
        self._called = end
        values = {name: m.as_dict() for name, m in metrics.items()}
        record: dict[str, Any] = {"epoch": epoch, **scalars, "seconds": end - start, "share": share}
        record["layers"] = values
        self.records = [*(r for r in self.records if r["epoch"] != epoch), record]
        if self._file is not None:
            self._file.append(record)
        if self._tensorboard is not None:
            for layer, of_layer in values.items():
                for metric, value in of_layer.items():
                    self._tensorboard.add_scalar(f"collapse/{metric}/{layer}", value, epoch)
        return metrics

    def on_epoch(self, record: Any) -> None:
        """For `train(on_epoch=...)`: measures, and records loss and accuracy beside."""
        self(record.epoch, loss=record.loss, accuracy=record.accuracy)

    def _weight(self, layer: str, statistics: ClassStatistics | SpanStatistics) -> Any:
        if isinstance(statistics, SpanStatistics):
            return None  # no coordinates that a weight reads
        own = layer if self._own_weights else ""
        module: Any = self._modules.get(self._weights.get(layer, own))
        weight = getattr(module, "weight", None)
        if weight is None or (layer not in self._weights and weight.shape[1:] != (statistics.dim,)):
            return None
        return weight.detach()

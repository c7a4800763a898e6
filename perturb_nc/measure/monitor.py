"""CollapseMonitor: the collapse of every layer, once per epoch, for any training loop."""

import math
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from perturb_nc.measure.arguments import Unpack
from perturb_nc.measure.epoch_file import EpochFile
from perturb_nc.measure.extraction import collect_builders, collect_statistics
from perturb_nc.measure.loading import Loader, is_read_once
from perturb_nc.measure.modules import Layers, modules_by_name, named_layers, plain_model
from perturb_nc.measure.processes import in_group, is_first, over_processes
from perturb_nc.measure.reductions import Reduction
from perturb_nc.measure.subsample import stratified
from perturb_nc.measure.turns import Turn
from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.validation import instance

_TAKEN = ("layers", "layer", "seconds", "share")


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
    before. In a group of processes (torch.distributed) every process makes a monitor and calls it;
    samples are reduced over them, and the first one writes.

    Args:
        model: any torch model.
        loader: what to measure on: a `Dataset`, or (inputs, labels) batches that can be read again
            every epoch (a list, a DataLoader).
        path: file that gets every epoch as it is measured: ".jsonl" (one JSON object a line) or
            ".csv" (one row a layer). If a monitor wrote it, it is added to; a line that a kill cut
            off is moved to PATH.torn, an epoch measured again stands there twice, of which the last
            counts (`read_epochs`), and new columns are added to a ".csv". What a full disk does not
            take is written with the next epoch. The epochs there become the first `records`.
        weights: layer → module whose weight reads that layer's features, for the metrics of NC3,
            as {"blocks.5": "head"}. With at="input" every layer with a weight (m, d) reads its own.
        tensorboard: a SummaryWriter; gets "collapse/METRIC/LAYER".
        log: called with `scalars()` of every measurement: `wandb.log`, or
            `lambda values: mlflow.log_metrics(values, step=int(values["epoch"]))`.
        every: measure at every so many calls, the first among them.
        budget: per cent of the time that measuring may take: a call measures only where the last
            measurement is no more than that of the time since.
        per_class: measure on so many samples of each class (`stratified`), of each process.
        layers, at, reduce, num_classes, covariance, unpack: as for `collect_statistics`.

    Attributes:
        records: one dictionary per epoch: "epoch", what was passed by name, "seconds" (of the
            measurement), "share" (of the time since the call before; None at first) and "layers":
            name → metric → value.
        statistics: name → `ClassStatistics` of the last call.

    Raises:
        ValueError: a path of another kind, a file that no monitor wrote, a loader that can be read
            only once, an unknown module or covariance.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        *,
        path: str | Path | None = None,
        weights: Mapping[str, str] | None = None,
        tensorboard: ScalarWriter | None = None,
        log: Callable[[dict[str, float]], Any] | None = None,
        every: int = 1,
        budget: float | None = None,
        per_class: int | None = None,
        layers: Layers | None = None,
        at: str = "output",
        reduce: str | Reduction = "pool",
        num_classes: int | None = None,
        covariance: str = "full",
        unpack: Unpack | None = None,
    ) -> None:
        if covariance not in ("full", "span"):
            raise ValueError(f"covariance must be 'full' or 'span', got {covariance!r}")
        if is_read_once(loader):
            raise ValueError(
                "loader must be readable every epoch, and an iterator is used up by the first; "
                "give a Dataset, a list or a DataLoader"
            )
        if per_class is not None:
            loader, unpack = stratified(loader, per_class, unpack=unpack), None
        self._model, self._loader = plain_model(model), loader
        if tensorboard is not None:
            instance(tensorboard, ScalarWriter, "tensorboard", "pass a SummaryWriter")
        if log is not None:
            instance(log, Callable, "log", "pass a function of one dictionary, as wandb.log")
        self._turn = Turn(every=every, budget=budget)
        self._tensorboard, self._log = tensorboard, log
        self._weights = {n: self._module(n, name) for n, name in (weights or {}).items()}
        self._own_weights = at == "input"
        self._span = covariance == "span"
        self._options: dict[str, Any] = {
            "layers": layers, "at": at, "reduce": reduce,
            "num_classes": num_classes, "unpack": unpack,
        }  # fmt: skip
        self._file = None if path is None else EpochFile(path)
        self.records: list[dict[str, Any]] = [] if self._file is None else self._file.read()
        self.statistics: Mapping[str, ClassStatistics | SpanStatistics] = {}

    @torch.inference_mode(False)
    def __call__(self, epoch: int, **scalars: Any) -> dict[str, CollapseMetrics]:
        """Measure, where it is the turn of this call; gives the metrics of every layer.

        Args:
            scalars: numbers and texts to record beside, tensors with one number too.

        Returns:
            Layer → metrics, which are recorded too; empty where `every` or `budget` skip the call.

        Raises:
            ValueError: a scalar that is none, or has the name of what is recorded anyway.
        """
        return self._measured(epoch, scalars, together=in_group())

    def _measured(
        self, epoch: int, scalars: Mapping[str, Any], *, together: bool
    ) -> dict[str, CollapseMetrics]:
        beside = {name: _scalar(name, value) for name, value in scalars.items()}
        epoch = _number(epoch)
        if not self._turn.is_come(together=together):
            return {}
        start = time.perf_counter()
        self.statistics = self._statistics(together)
        self._check_weights()
        metrics = {
            name: collapse_metrics(statistics, self._weight(name, statistics))
            for name, statistics in self.statistics.items()
        }
        end = time.perf_counter()
        share = self._turn.measured(start, end)
        values = {name: m.as_dict() for name, m in metrics.items()}
        record: dict[str, Any] = {"epoch": epoch, **beside, "seconds": end - start, "share": share}
        record["layers"] = values
        self.records = [*(r for r in self.records if r["epoch"] != epoch), record]
        if is_first():
            self._write(record)
        return metrics

    @property
    def share(self) -> float:
        """Of all the time since the first measurement began, what measuring took."""
        return self._turn.share

    def scalars(self) -> dict[str, float]:
        """The last record as one flat dictionary, for loggers: "collapse/METRIC/LAYER" → value.

        Beside "epoch", the numbers that were passed by name, and "collapse/share" of time. Metrics
        that are not defined are left out.
        """
        if not self.records:
            return {}
        record = self.records[-1]
        values: dict[str, float] = {
            name: value
            for name, value in record.items()
            if name not in _TAKEN and isinstance(value, int | float)
        }
        if record["share"] is not None:
            values["collapse/share"] = record["share"]
        for layer, metrics in record["layers"].items():
            values |= {
                f"collapse/{metric}/{layer}": value
                for metric, value in metrics.items()
                if value is not None and math.isfinite(value)
            }
        return values

    def _statistics(self, together: bool) -> Mapping[str, ClassStatistics | SpanStatistics]:
        if self._span:
            if together:
                raise ValueError(
                    "covariance='span' is of one process; in a group take reduce='pool' or "
                    "random_projection(512)"
                )
            return collect_statistics(self._model, self._loader, covariance="span", **self._options)
        if not together:
            return collect_statistics(self._model, self._loader, **self._options)
        builders = over_processes(
            lambda: collect_builders(self._model, self._loader, **self._options)[0]
        )
        return {name: builder.result() for name, builder in builders.items()}

    def _write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.append(record)
        if self._log is not None:
            self._log(self.scalars())
        if self._tensorboard is not None:
            for layer, of_layer in record["layers"].items():
                for metric, value in of_layer.items():
                    tag = f"collapse/{metric}/{layer}"
                    self._tensorboard.add_scalar(tag, value, record["epoch"])

    def on_epoch(self, record: Any) -> None:
        """For `train(on_epoch=...)`: measures, and records loss and accuracy beside.

        `train` calls it in the first process alone, which measures all by itself.
        """
        scalars = {"loss": record.loss, "accuracy": record.accuracy}
        self._measured(record.epoch, scalars, together=False)

    def _check_weights(self) -> None:
        unknown = [name for name in self._weights if name not in self.statistics]
        if unknown:
            raise ValueError(
                f"weights must have the names of measured layers, got {unknown[0]!r}; there are "
                f"{list(self.statistics)[:20]}"
            )

    def _module(self, layer: str, name: str) -> nn.Module:
        try:
            module = named_layers(self._model, [name])[0].popitem()[1]
        except ValueError as error:
            raise ValueError(
                f"weights must name modules, got {name!r} ({layer}): {error}"
            ) from error
        if getattr(module, "weight", None) is None:
            raise ValueError(f"weights must name modules with a weight, got {name!r} ({layer})")
        return module

    def _weight(self, layer: str, statistics: ClassStatistics | SpanStatistics) -> Any:
        if isinstance(statistics, SpanStatistics):
            return None  # no coordinates that a weight reads
        module: Any = self._weights.get(layer)
        if module is None and self._own_weights:
            module = modules_by_name(self._model).get(re.sub(r"#\d+$", "", layer))
        weight = getattr(module, "weight", None)
        if weight is None or (layer not in self._weights and weight.shape[1:] != (statistics.dim,)):
            return None
        return weight.detach().to(statistics.means.device)


def _number(epoch: Any) -> int:
    number = _scalar("epoch", epoch)
    if isinstance(number, bool | str) or number is None or number != int(number):
        raise ValueError(f"epoch must be an integer, got {number!r}; give scalars by name")
    return int(number)


def _scalar(name: str, value: Any) -> Any:
    """A number or text of what may be a tensor or array of one."""
    if name in _TAKEN:
        raise ValueError(f"{name!r} is recorded by the monitor itself; give {name!r} another name")
    if hasattr(value, "item"):
        with suppress(ValueError, RuntimeError):  # more than one number: refused below
            value = value.item()
    if value is not None and not isinstance(value, bool | int | float | str):
        raise ValueError(
            f"{name} must be a number or a text, got {type(value).__name__}; pass its parts by name"
        )
    return value

"""So many samples of each class of a loader: what a cheap measurement is made of."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from perturb_nc.layer_samples import stratified_rows
from perturb_nc.measure.arguments import Unpack, pair_of
from perturb_nc.measure.dataset import Dataset
from perturb_nc.measure.loading import Loader, opened
from perturb_nc.validation import at_least

__all__ = ["stratified", "stratified_rows"]


def stratified(loader: Loader, per_class: int, *, unpack: Unpack | None = None) -> Loader:
    """The first `per_class` samples of each class, in the order of the loader.

    Of a `Dataset` another one; of anything else batches, which are all read and most of which the
    model does not see.

    Raises:
        ValueError: per_class below 2: a class has no covariance then.
    """
    at_least(per_class, 2, "per_class")
    if isinstance(loader, Dataset):
        rows = _quota(loader.labels, torch.zeros(0, dtype=torch.int64), per_class)[0]
        return replace(loader, inputs=loader.inputs[rows], labels=loader.labels[rows])
    return _Stratified(loader, per_class, unpack)


class _Stratified:
    def __init__(self, loader: Loader, per_class: int, unpack: Unpack | None) -> None:
        self._loader, self._per_class, self._unpack = loader, per_class, unpack

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        seen = torch.zeros(0, dtype=torch.int64)
        for batch in opened(self._loader):
            inputs, labels = pair_of(batch, self._unpack)
            labels = torch.as_tensor(labels)
            rows, seen = _quota(labels, seen, self._per_class)
            if len(rows):
                yield _cut(inputs, rows, len(labels)), labels[rows.to(labels.device)]


def _quota(labels: Tensor, seen: Tensor, per_class: int) -> tuple[Tensor, Tensor]:
    """Rows whose class is not full yet, and how many of each class were seen with them."""
    own = labels.detach().cpu().long()
    size = max(len(seen), int(own.max()) + 1 if len(own) else 0)
    seen = torch.nn.functional.pad(seen, (0, size - len(seen)))
    one_hot = torch.nn.functional.one_hot(own, size)
    number = (one_hot.cumsum(0) + seen)[torch.arange(len(own)), own]  # among its class, from 1
    return (number <= per_class).nonzero().flatten(), seen + one_hot.sum(0)


def _cut(inputs: Any, rows: Tensor, size: int) -> Any:
    """The rows of every array whose first dimension is the batch."""
    if isinstance(inputs, Mapping):
        return {name: _cut(x, rows, size) for name, x in inputs.items()}
    if isinstance(inputs, tuple | list):
        return type(inputs)(_cut(x, rows, size) for x in inputs)
    if not hasattr(inputs, "shape") or inputs.shape[:1] != (size,):
        return inputs
    return inputs[rows.to(inputs.device)] if isinstance(inputs, Tensor) else inputs[rows.numpy()]

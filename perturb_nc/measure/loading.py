"""From a model and a loader to calls of the model, batch by batch."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor, nn
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
    default_collate,
)
from torch.utils.data import Dataset as TorchDataset

from perturb_nc.measure.arguments import Unpack, arguments_of, pair_of
from perturb_nc.measure.dataset import Dataset, batches
from perturb_nc.measure.placement import Placement
from perturb_nc.measure.shares import own_samples
from perturb_nc.validation import as_labels, as_tensor

Loader = Iterable[Any] | Dataset | TorchDataset[Any]
"""Batches, or a data set to make them of."""

_BATCH_SIZE = 1024  # of a `Dataset`
_ITEMS = 256  # of a torch data set of single items


@dataclass(frozen=True, eq=False)
class Call:
    """One batch as the arguments of a model.

    Attributes:
        args, kwargs: copies on the device and in the floating dtype of the model.
        labels: integers 0..K-1, one a sample.
        mask: which tokens are no padding, of an "attention_mask" among the inputs.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    labels: Int64[Tensor, "N"]
    mask: Bool[Tensor, "N T"] | None


def calls(
    model: nn.Module,
    loader: Loader,
    *,
    unpack: Unpack | None = None,
    num_classes: int | None = None,
) -> Iterator[Call]:
    """Every batch of a loader as a call of the model.

    A loader is a `Dataset`, a torch data set of items, or an iterable of batches: (inputs, labels),
    or a dictionary with "labels" whose other entries are keywords of the model, or whatever
    `unpack` turns into (inputs, labels). Inputs are one array; a tuple of tensors for several
    positional arguments; or a dictionary for keywords. They are copied, as a model may overwrite
    them, and floats take the dtype of the model. What a `DistributedSampler` repeats to fill up its
    processes is left out.

    Raises:
        TypeError, ValueError: a batch of another kind, and what to do.
    """
    own = own_samples(loader)
    place = Placement(model)
    checked = False
    for batch in opened(loader):
        inputs, labels = pair_of(batch, unpack)
        args, kwargs = arguments_of(model, inputs)
        call = _call(place, args, kwargs, labels, num_classes)
        if own is not None:
            call = _first(call, own)
            own -= len(call.labels)
            if not len(call.labels):
                continue
        if not checked:
            check_signature(model, call)
            checked = True
        yield call


def is_read_once(loader: object) -> bool:
    """Whether a loader is used up by one pass. (To call iter() of a DataLoader draws numbers.)"""
    return isinstance(loader, Iterator)


def counts_at_hand(
    loader: object, num_classes: int | None, unpack: Unpack | None = None
) -> Int64[Tensor, "K"] | None:
    """Samples of each class of a loader that is in memory; None where that takes a pass."""
    parts: list[Any] = []
    if isinstance(loader, DataLoader) and type(loader.sampler) in (
        SequentialSampler,
        RandomSampler,
    ):
        loader = loader.dataset if loader.collate_fn is default_collate else None
    if isinstance(loader, Dataset):
        parts = [loader.labels]
    elif isinstance(loader, TensorDataset) and len(loader.tensors) == 2:
        parts = [loader.tensors[1]]
    elif isinstance(loader, list | tuple):
        try:
            parts = [pair_of(batch, unpack)[1] for batch in loader]
        except (TypeError, ValueError):
            return None  # the pass says which batch is wrong, and how
    try:
        labels = [as_labels(y, len(y), num_classes=num_classes).cpu() for y in parts]
    except (TypeError, ValueError):
        return None
    return torch.cat(labels).bincount(minlength=num_classes or 0) if labels else None


def opened(loader: Any) -> Iterable[Any]:
    """The batches of a loader of any kind, or TypeError."""
    if isinstance(loader, Dataset):
        return batches(loader, _BATCH_SIZE)
    if isinstance(loader, TorchDataset) and not isinstance(loader, IterableDataset):
        return DataLoader(loader, batch_size=_ITEMS)
    if isinstance(loader, Tensor | Mapping | str) or not isinstance(loader, Iterable):
        raise TypeError(
            f"loader must give (inputs, labels) batches, got {type(loader).__name__}; pass a "
            "DataLoader, a Dataset, or a list as [(inputs, labels)]"
        )
    return loader


def check_signature(model: nn.Module, call: Call) -> None:
    """The model takes these arguments, or an error before it runs."""
    try:
        signature = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*call.args, **call.kwargs)
    except TypeError as error:
        given = ", ".join(call.kwargs) or f"{len(call.args)} positional inputs"
        raise ValueError(
            f"the model takes {signature} and the batch gives {given} ({error}); choose by unpack=,"
            ' as unpack=lambda batch: ({"x": batch["x"]}, batch["labels"])'
        ) from error


def _call(
    place: Placement,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    labels: Any,
    num_classes: int | None,
) -> Call:
    tensors = [x for x in (*args, *kwargs.values()) if torch.is_tensor(x) and x.ndim]
    y = as_tensor(labels, "labels") if labels is not None else None
    if y is not None and not y.ndim:
        raise ValueError(
            "loader must give batches, got a single sample with one label; pass "
            "torch.utils.data.DataLoader(data, batch_size=256)"
        )
    size = len(tensors[0]) if tensors else 0 if y is None else len(y)
    mask = kwargs.get("attention_mask")
    if not (torch.is_tensor(mask) and mask.ndim == 2):
        mask = None
    return Call(
        tuple(place(x) for x in args),
        {key: place(x) for key, x in kwargs.items()},
        as_labels(labels, size, num_classes=num_classes),
        None if mask is None else mask != 0,
    )


def _first(call: Call, count: int) -> Call:
    """The first samples of a batch."""
    size = len(call.labels)
    if count >= size:
        return call

    def cut(x: Any) -> Any:
        return x[:count] if torch.is_tensor(x) and x.ndim and len(x) == size else x

    return Call(
        tuple(cut(x) for x in call.args),
        {key: cut(x) for key, x in call.kwargs.items()},
        call.labels[:count],
        cut(call.mask),
    )

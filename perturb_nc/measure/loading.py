"""From a model and a loader to calls of the model: the one place that knows batches."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
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
from torch.utils.data.distributed import DistributedSampler

from perturb_nc.measure.dataset import Dataset, batches
from perturb_nc.validation import as_labels, as_tensor

Unpack = Callable[[Any], tuple[Any, Any]]
"""A batch of any kind to (inputs, labels)."""
Loader = Iterable[Any] | Dataset | TorchDataset[Any]
"""Batches, or a data set to make them of."""

_BATCH_SIZE = 1024  # of a `Dataset`
_ITEMS = 256  # of a torch data set of single items
_LABEL_KEYS = ("labels", "label")


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
    own = _own_samples(loader)
    place = _Placement(model)
    checked = False
    for batch in _opened(loader):
        inputs, labels = _pair(batch, unpack)
        args, kwargs = _arguments(model, inputs)
        call = _call(place, args, kwargs, labels, num_classes)
        if own is not None:
            call = _first(call, own)
            own -= len(call.labels)
            if not len(call.labels):
                continue
        if not checked:
            _check_signature(model, call)
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
            parts = [_pair(batch, unpack)[1] for batch in loader]
        except (TypeError, ValueError):
            return None  # the pass says which batch is wrong, and how
    try:
        labels = [as_labels(y, len(y), num_classes=num_classes).cpu() for y in parts]
    except (TypeError, ValueError):
        return None
    return torch.cat(labels).bincount(minlength=num_classes or 0) if labels else None


def _opened(loader: Any) -> Iterable[Any]:
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


def _pair(batch: Any, unpack: Unpack | None) -> tuple[Any, Any]:
    if unpack is not None:
        pair = unpack(batch)
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(
                f"unpack must turn a batch into (inputs, labels), got {type(pair).__name__}; "
                "as unpack=lambda batch: (batch[0], batch[1])"
            )
        return pair[0], pair[1]
    if isinstance(batch, Mapping):
        keys = [key for key in _LABEL_KEYS if key in batch]
        if len(keys) != 1:
            raise ValueError(
                f'a batch is a dictionary of {list(batch)} without "labels"; say which are the '
                'labels, as unpack=lambda batch: ({"x": batch["x"]}, batch["y"])'
            )
        return {k: v for k, v in batch.items() if k != keys[0]}, batch[keys[0]]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    length = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
    raise ValueError(
        f"loader must give (inputs, labels) pairs, got {type(batch).__name__}{length}; pick the "
        "two by unpack=, as unpack=lambda batch: batch[:2], or pass one batch as [(inputs, labels)]"
    )


def _arguments(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as positional and keyword arguments."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list) and inputs and all(torch.is_tensor(x) for x in inputs):
        return tuple(inputs), {}
    parameters = _parameters(model)
    kinds = {p.kind for p in parameters}
    if parameters and kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}:
        needed = [p.name for p in parameters if p.default is p.empty and p.kind is p.KEYWORD_ONLY]
        if len(needed) != 1:
            names = [p.name for p in parameters]
            raise ValueError(
                f"the model takes keywords only ({', '.join(names)}); name its inputs, as "
                f'unpack=lambda batch: ({{"{names[0]}": batch[0]}}, batch[1])'
            )
        return (), {needed[0]: as_tensor(inputs, "inputs")}
    return (as_tensor(inputs, "inputs"),), {}


def _parameters(model: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):  # compiled code has no signature
        return []


def _check_signature(model: nn.Module, call: Call) -> None:
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
    place: "_Placement",
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


class _Placement:
    """Copies inputs to where a model computes, floats in its dtype."""

    def __init__(self, model: nn.Module) -> None:
        # Parameters on "meta" are elsewhere, and come when they are needed.
        held = [t for t in chain(model.parameters(), model.buffers()) if not t.is_meta]
        moves_itself = any(hasattr(m, "_hf_hook") for m in model.modules())
        if not (held or moves_itself) and any(True for _ in model.parameters()):
            raise ValueError(
                "model has no numbers: all its parameters are on device meta; load its weights "
                "first, as model.to_empty(device='cpu') and model.load_state_dict(...)"
            )
        self._device = held[0].device if held and not moves_itself else None
        kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        self._dtype = next((t.dtype for t in held if t.dtype in kinds), None)

    def __call__(self, x: Any) -> Any:
        if not torch.is_tensor(x):
            return x
        dtype = self._dtype if x.is_floating_point() and self._dtype is not None else x.dtype
        return x.detach().to(self._device or x.device, dtype, copy=True)


def _own_samples(loader: object) -> int | None:
    """How many samples of this process are no repetition; None when all are its own."""
    _check_even_batches(loader)
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    total = len(sampler.dataset)  # type: ignore[arg-type]
    if sampler.total_size <= total:
        return None
    if type(sampler).__iter__ is not DistributedSampler.__iter__:
        raise ValueError(
            f"{type(sampler).__name__} repeats samples to fill up its processes ({total} to "
            f"{sampler.total_size}), and which ones is not known; make it with drop_last=True"
        )
    return max(0, -((sampler.rank - total) // sampler.num_replicas))


def _check_even_batches(loader: Any) -> None:
    """ValueError for batches that accelerate fills up with samples of other processes."""
    shard: Any = getattr(loader, "batch_sampler", None)
    processes = getattr(shard, "num_processes", 1)
    if processes < 2 or not getattr(shard, "even_batches", False):
        return
    size = shard.batch_size if shard.split_batches else shard.batch_size * processes
    total = len(loader.dataset)
    if total % size:
        raise ValueError(
            f"{type(shard).__name__} repeats samples to fill up its processes ({total} in batches "
            f"of {size} altogether); prepare the loader with even_batches=False"
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

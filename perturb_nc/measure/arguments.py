"""From a batch of any kind to the arguments of a model and the labels."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from perturb_nc.validation import as_tensor

Unpack = Callable[[Any], tuple[Any, Any]]
"""A batch of any kind to (inputs, labels)."""

_LABEL_KEYS = ("labels", "label")


def pair_of(batch: Any, unpack: Unpack | None) -> tuple[Any, Any]:
    """Inputs and labels of a batch."""
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


def arguments_of(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
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

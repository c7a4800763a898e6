"""Why a model does not run on a batch: which of its modules failed, what it reads, what it got."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from types import FrameType
from typing import Any

import torch
from torch import nn

# What a module of torch reads, by the attribute that says how wide.
_READS = {
    "in_features": "{} features in the last axis",
    "in_channels": "{} channels, (N, {}, ...)",
    "num_features": "{} channels, (N, {}, ...)",
    "normalized_shape": "{} as the last axes",
    "num_embeddings": "integers from 0 to below {}",
    "input_size": "{} features in the last axis",
    "embed_dim": "{} features in the last axis",
}


@contextmanager
def explained(model: nn.Module) -> Iterator[None]:
    """Errors of torch while the model runs become a ValueError with the module's name and wants.

    Not those of memory, of other code than modules, or of what reads the layers meanwhile.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, IndexError, ValueError) as error:
        frame = _frame_of_module(error)
        if frame is None:
            raise
        raise ValueError(_sentence(model, frame, error)) from error


def _frame_of_module(error: BaseException) -> FrameType | None:
    """The innermost frame of a module that ran; None where other code of ours failed inside."""
    found, trace = None, error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if isinstance(frame.f_locals.get("self"), nn.Module):
            found = frame
        elif str(frame.f_globals.get("__name__")).startswith("perturb_nc."):
            found = None  # a hook
        trace = trace.tb_next
    return found


def _sentence(model: nn.Module, frame: FrameType, error: BaseException) -> str:
    module = frame.f_locals["self"]
    name = next((n for n, m in model.named_modules() if m is module), "")
    layer = f"layer {name!r}" if name else "the model"
    said = f"{layer}, {type(module).__name__}"
    inputs = [value for value in frame.f_locals.values() if torch.is_tensor(value)]
    if any(t.is_meta for t in chain(module.parameters(), module.buffers())):
        return (
            f"{said}, has no numbers: it is on device meta; load its weights first, as "
            "model.to_empty(device='cpu') and model.load_state_dict(...)"
        )
    wants = [form.format(*2 * [size]) for key, form in _READS.items() if (size := _of(module, key))]
    wanted = f"reads {wants[0]}, and " if wants else ""
    got = f"got {tuple(inputs[0].shape)} {inputs[0].dtype}" if inputs else "failed"
    return (
        f"{said}, {wanted}{got} ({str(error).splitlines()[0]}); give a loader with the inputs that "
        "the model was trained on, or turn its batches into them by unpack="
    )


def _of(module: Any, key: str) -> Any:
    """A width, where the module has one that it knows already."""
    value = getattr(module, key, None)
    return value if isinstance(value, int | tuple) else None

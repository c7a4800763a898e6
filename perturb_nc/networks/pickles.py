"""Tensors of a torch module that was pickled whole, read without running anything of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from perturb_nc.storage import existing, load_tensors


class _Shell:
    """Stands for a class of modules: takes its attributes, has no code."""


def module_tensors(path: str | Path, classes: Sequence[str]) -> dict[str, Tensor]:
    """The state dict of a module that `torch.save` wrote whole.

    It is read by torch's unpickler for tensors, which knows a list of globals and refuses all
    others. Empty shells stand for the classes named: no code of theirs is imported or run.

    Args:
        classes: those that may occur, as "torch.nn.modules.conv.Conv2d".

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file asks for another global, which is named, or holds no module.
    """
    path = existing(path)
    try:
        asked = get_unsafe_globals_in_checkpoint(path)  # reads the opcodes, runs none
    except Exception as error:  # whatever a parser makes of a damaged file
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is no file of torch.save: {reason}") from error
    if refused := sorted(set(asked) - set(classes)):
        raise ValueError(
            f"{path} asks for {', '.join(refused)}, which its tensors do not need; nothing of it "
            "was run; fetch it anew"
        )
    with safe_globals([(_Shell, name) for name in classes]):
        module = load_tensors(path)
    try:
        return dict(_state(module, ""))
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no module of these classes ({error!r})") from error


def _state(module: Any, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under the names of `state_dict`."""
    for kind in ("_parameters", "_buffers"):
        for name, value in vars(module)[kind].items():
            if value is not None:
                yield f"{prefix}{name}", value.detach()
    for name, child in vars(module)["_modules"].items():
        yield from _state(child, f"{prefix}{name}.")

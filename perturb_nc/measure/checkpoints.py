"""The checkpoints of a training, measured one after the other."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from perturb_nc.measure.loading import Loader
from perturb_nc.measure.modules import plain_model
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.storage import existing, load_tensors, local, read_tensors

_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_INSIDE = ("model.safetensors", "pytorch_model.bin")  # of a folder, as Hugging Face writes it
_STATES = ("state_dict", "model_state_dict", "model")  # where trainers put the weights
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of wrappers


def checkpoint_files(folder: str | Path) -> dict[int, Path]:
    """Number of an epoch or step → file, in order: of files and folders that end in a number.

    "epoch-3.pt", "checkpoint-500/model.safetensors"; names without a number, as "last.ckpt", are
    left out.

    Raises:
        FileNotFoundError, ValueError: no such folder, none in it, or two of one number.
    """
    folder = local(folder, "folder")
    if not folder.exists():
        raise FileNotFoundError(f"no folder at {folder}; check the path")
    if not folder.is_dir():
        raise ValueError(f"checkpoints must be a folder, got the file {folder}")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        files = [path / name for name in _INSIDE] if path.is_dir() else [path]
        file = next((f for f in files if f.is_file() and f.suffix.lower() in _SUFFIXES), None)
        number = re.search(r"(\d+)\D*$", path.name if path.is_dir() else path.stem)
        if file is None or number is None:
            continue
        if (epoch := int(number[1])) in found:
            raise ValueError(f"two checkpoints have the number {epoch}: {found[epoch]} and {file}")
        found[epoch] = file
    if not found:
        raise ValueError(f"{folder} holds no checkpoint with a number, {', '.join(_SUFFIXES)}")
    return dict(sorted(found.items()))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint's weights into a model: tensors alone, no code in the file runs.

    The file holds a state dictionary, or one under "state_dict", "model_state_dict" or "model";
    names may begin with what wrappers add.

    Raises:
        FileNotFoundError, ValueError: no such file, or weights of another model.
    """
    path = existing(path)
    loaded: Any = (
        read_tensors(path)[0] if path.suffix.lower() == ".safetensors" else load_tensors(path)
    )
    for key in _STATES:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise ValueError(f"{path} holds no state dictionary")
    state: dict[str, Tensor] = dict(loaded)
    inner = plain_model(model)
    wanted = set(inner.state_dict())
    for prefix in _PREFIXES:
        if not wanted & set(state) and all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    try:
        inner.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds the weights of another model: {error}") from error


def measure_checkpoints(
    model: nn.Module,
    loader: Loader,
    folder: str | Path,
    *,
    on_epoch: Callable[[int], None] | None = None,
    **options: Any,
) -> CollapseMonitor:
    """Measure every checkpoint in a folder, as a monitor would have during the training.

    The model gets its own weights back.

    Args:
        model: of the architecture of the checkpoints.
        loader: what to measure on.
        folder: see `checkpoint_files`.
        on_epoch: called with the number of each checkpoint that is done.
        options: of `CollapseMonitor`, as path="metrics.jsonl".

    Returns:
        The monitor; its `records` have the checkpoints' numbers as "epoch" and file as "file".

    Raises:
        FileNotFoundError, ValueError: as `checkpoint_files`, `load_weights`, `CollapseMonitor`.
    """
    files = checkpoint_files(folder)
    monitor = CollapseMonitor(model, loader, **options)
    inner = plain_model(model)
    own = {name: value.detach().clone() for name, value in inner.state_dict().items()}
    try:
        for epoch, file in files.items():
            load_weights(model, file)
            monitor(epoch, file=str(file.relative_to(folder)))
            if on_epoch is not None:
                on_epoch(epoch)
    finally:
        inner.load_state_dict(own)
    return monitor

"""The command `perturb-nc measure`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb_nc.cli.arguments import Json, progress_bar, refuse_overwriting

if TYPE_CHECKING:
    from torch import nn

_WHERE = "SCRIPT.py:NAME or MODULE:NAME; a function is called without arguments"


def measure(
    model: Annotated[str, typer.Argument(help=f"the torch model: {_WHERE}")],
    loader: Annotated[
        str, typer.Argument(help=f"(inputs, labels) batches or a data set: {_WHERE}")
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help=".safetensors; with --checkpoints .jsonl or .csv"),
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", help='name or pattern, as "blocks.*"; repeatable; default: all'),
    ] = None,
    at: Annotated[str, typer.Option(help="output or input of each layer")] = "output",
    reduce: Annotated[
        str, typer.Option(help="activations to features: pool, channels, tokens, class_token, …")
    ] = "pool",
    num_classes: Annotated[int | None, typer.Option(help="K, default: largest label + 1")] = None,
    checkpoints: Annotated[
        Path | None, typer.Option(help="folder of checkpoints: the metrics of each instead")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure every layer of a model in a script of yours; the script is run, as by an import."""
    from perturb_nc.cli.scripts import from_script
    from perturb_nc.show import terminal
    from perturb_nc.storage import json_text

    kinds = (".jsonl", ".csv") if checkpoints else (".safetensors",)
    if output.suffix.lower() not in kinds:
        raise ValueError(f"--output must end in {' or '.join(kinds)}, got {output}")
    refuse_overwriting(output)
    network, data = from_script(model, "model"), from_script(loader, "loader")
    _check_kinds(network, data, model)
    options: dict[str, Any] = {
        "layers": layers or None, "at": at, "reduce": reduce, "num_classes": num_classes,
    }  # fmt: skip
    if checkpoints is not None:
        records = _each_checkpoint(network, data, checkpoints, output, options)
        print(json_text(records) if as_json else f"wrote {output}: {len(records)} checkpoints")
        return
    from perturb_nc.layer_files import save_layers
    from perturb_nc.measure.extraction import collect_statistics

    with progress_bar("batches", _batches(data)) as update, _counted(network, update):
        found = collect_statistics(network, data, **options)
    save_layers(found, output, {"model": model, "loader": loader})
    if as_json:
        sizes = {n: {"dim": s.dim, "samples": s.num_samples} for n, s in found.items()}
        print(json_text({"file": str(output), "layers": sizes}))
        return
    lines = [f"{name}: d = {s.dim}, N = {s.num_samples}" for name, s in found.items()]
    terminal.show(f"wrote {output}: {len(found)} layers", *lines)


def _check_kinds(network: Any, data: Any, model: str) -> None:
    """ValueError unless they are a model and something that gives batches."""
    from torch import nn

    from perturb_nc.measure.loading import opened

    if not isinstance(network, nn.Module):
        raise ValueError(f"model must be a torch module, {model} is a {type(network).__name__}")
    try:
        opened(data)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _each_checkpoint(
    network: "nn.Module", data: Any, folder: Path, output: Path, options: dict[str, Any]
) -> list[dict[str, Any]]:
    from perturb_nc.measure.checkpoints import checkpoint_files, measure_checkpoints

    finished = 0
    with progress_bar("checkpoints", len(checkpoint_files(folder))) as update:

        def on_epoch(_: int) -> None:
            nonlocal finished
            finished += 1
            update(finished)

        monitor = measure_checkpoints(
            network, data, folder, path=output, on_epoch=on_epoch, **options
        )
    return monitor.records


def _batches(data: Any) -> int | None:
    """Batches of a loader that knows; of a data set the number is not known here."""
    from torch.utils.data import DataLoader

    return len(data) if isinstance(data, list | tuple | DataLoader) else None


@contextmanager
def _counted(network: Any, update: Callable[..., None]) -> Iterator[None]:
    """Tells of every forward pass of a model."""
    from perturb_nc.measure.modules import plain_model

    numbers = count(1)

    def called(*_: object) -> None:
        update(next(numbers))

    hook = plain_model(network).register_forward_pre_hook(called)
    try:
        yield
    finally:
        hook.remove()

"""What the commands share: their options, how they load layers, and how they show progress.

The modules of this package import nothing heavy at their top: what a command needs is loaded when
it runs, so that help and version come at once.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from perturb_nc.show.labels import printable

if TYPE_CHECKING:
    from torch import Tensor

    from perturb_nc.statistics import ClassStatistics
    from perturb_nc.study.models import Layer

MOST_VALUES = 10_000  # along an axis, or times of a path

File = Annotated[
    Path,
    typer.Argument(help="class statistics of layers, or a folder with statistics.safetensors"),
]
LambdaW = Annotated[float, typer.Option(help="λ_W, weight of |W|²/(2K)")]
LambdaH = Annotated[float, typer.Option(help="λ_H, weight of |H|²/(2N)")]
Beta = Annotated[float, typer.Option(help="β, weight of |H - H0|²/(2N)")]
Bias = Annotated[bool, typer.Option(help="give the last layer a bias")]
Method = Annotated[
    Literal["exact", "vicinity"],
    typer.Option(help="exact optimum, or closed form to first order in the distance from collapse"),
]
Loss = Annotated[
    str,
    typer.Option(
        help="squared, or cross-entropy (:label_smoothing=0.1,class_weights=1/2/0.5): FILE then "
        "keeps samples (`perturb-nc stats --samples`), or holds features of layers and labels"
    ),
]
LabelsKey = Annotated[
    str, typer.Option(help="name of the labels in a file of features; the rest are layers")
]
Reference = Annotated[
    str | None,
    typer.Option(help="layer that is H0, or that a path starts from; default: the first"),
]
Folder = Annotated[Path, typer.Option("--output", "-o", help="folder to write to")]
FolderIfAsked = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="folder for figures and JSON; default: none is written"),
]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
All = Annotated[bool, typer.Option("--all", help="every layer and metric, where tables sum up")]


def layers_in(file: Path) -> "dict[str, ClassStatistics]":
    """The layers of a file, or of a folder of an experiment; one without a name gets the file's."""
    from perturb_nc.layer_files import load_layers

    own = statistics_file(file)
    return {name or name_of(file): s for name, s in load_layers(own).items()}


def layers_for(file: Path, loss: str, labels_key: str = "labels") -> "dict[str, Layer]":
    """`layers_in`, with what a loss needs of the layers."""
    from perturb_nc.study.models import read_layers

    found = read_layers(statistics_file(file), loss, labels_key=labels_key)
    return {name or name_of(file): layer for name, layer in found.items()}


def statistics_file(path: Path) -> Path:
    """The file itself, or the one that experiments write into a folder."""
    return path / "statistics.safetensors" if path.is_dir() else path


def name_of(file: Path) -> str:
    """What a network is called: as its file, or as its folder where all files have one name."""
    if file.is_dir() or file.name == "statistics.safetensors":
        return (file if file.is_dir() else file.parent).resolve().name
    return file.stem


def pick(arrays: "Mapping[str, Tensor]", key: str, path: Path) -> "Tensor":
    """The array of that name, or the only one where it has none."""
    if key in arrays:
        return arrays[key]
    if list(arrays) == [""]:
        return arrays[""]
    raise ValueError(f"{path} holds arrays {sorted(arrays)}, none named {key!r}; see --help")


def refuse_overwriting(output: Path | None, *inputs: Path | None) -> None:
    """An output must be a place that can be written to, and none of the inputs."""
    for path in inputs:
        if path and path.exists() and output and output.exists() and output.samefile(path):
            raise ValueError(f"--output {output} is the input {path}; give another file")
    if output is not None:
        from perturb_nc.storage import writable

        writable(output)


def refuse_file(folder: Path | None) -> None:
    """A folder to write to must be one, or be there to be made."""
    if folder is None:
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output must be a folder, got the file {folder}; give another name")
    from perturb_nc.storage import writable_folder

    writable_folder(folder)


@contextmanager
def progress_bar(description: str, total: int | None = None) -> Iterator[Callable[..., None]]:
    """Gives a function update(completed, total=None) that moves a bar on stderr.

    The bar appears with the first update: an argument out of range shows none.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    task = progress.add_task(escape(printable(description)), total=total)

    def update(completed: int, of: int | None = None) -> None:
        """So much is done, of so much."""
        progress.start()
        progress.update(task, completed=completed, total=total if of is None else of)

    try:
        yield update
    finally:
        if progress.live.is_started:
            progress.stop()

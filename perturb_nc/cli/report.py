"""The command `perturb-nc report`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from perturb_nc.layer_files import load_layers, load_metadata
from perturb_nc.statistics import ClassStatistics
from perturb_nc.storage import existing
from perturb_nc.study.depth import CALIBRATING

if TYPE_CHECKING:
    import xarray as xr

Statistics = tuple[dict[str, ClassStatistics], dict[str, str]]


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="class statistics, a comparison (.json), or a folder with statistics.safetensors"
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="page to write, .html")] = Path(
        "report.html"
    ),
    lambda_w: Annotated[
        float | None, typer.Option(help="λ_W of the path, default: fitted to the layers")
    ] = None,
    lambda_h: Annotated[float | None, typer.Option(help="λ_H of the path, default: 0")] = None,
    metric: Annotated[
        str | None, typer.Option(help=f"places layers: {', '.join(CALIBRATING)}; default: nc1_span")
    ] = None,
    align: Annotated[bool, typer.Option(help="rotate layers onto each other first")] = False,
    pairs: Annotated[bool, typer.Option(help="fit (1) to each pair of layers, slow")] = True,
    save: Annotated[
        Path | None, typer.Option(help="folder for the comparisons, as they finish: RUNs later on")
    ] = None,
) -> None:
    """One self-contained HTML page: measured, predicted, and where the prediction fails."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, got {output}")
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "metric": metric}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if align:
        settings["align_layers"] = True
    if not pairs:
        settings["pairs"] = False
    runs = [run / "statistics.safetensors" if run.is_dir() else run for run in runs]
    networks: dict[str, xr.Dataset | Statistics] = {}
    for file in map(existing, runs):
        name, network = _loaded(file, settings)
        if name in networks:
            raise ValueError(f"RUNs must differ in name; {file} is {name!r} again: rename it")
        networks[name] = network
    from perturb_nc.show.report.page import write_report  # plotly loads slowly

    write_report(_compared(networks, settings, save), output)
    print(f"wrote {output}")


def _loaded(file: Path, settings: Mapping[str, Any]) -> "tuple[str, xr.Dataset | Statistics]":
    """A network's name, and its comparison or else its layers and what was recorded with them."""
    if file.suffix.lower() == ".json":
        from perturb_nc.study.comparison import load_comparison  # xarray loads slowly

        comparison = load_comparison(file)
        if settings:
            names = ", ".join(settings)
            raise ValueError(f"{names} must be left out: {file} is a finished comparison")
        return str(comparison.attrs["name"]), comparison
    in_folder = file.name == "statistics.safetensors"
    name = file.resolve().parent.name if in_folder else file.stem
    return name, (load_layers(file), load_metadata(file))


def _compared(
    networks: "dict[str, xr.Dataset | Statistics]", settings: Mapping[str, Any], save: Path | None
) -> "list[xr.Dataset]":
    """Comparisons of all networks; statistics are compared now, with a bar for each."""
    from perturb_nc.study.compare import compare_layers
    from perturb_nc.study.comparison import save_comparison

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
    comparisons = []
    try:
        for name, network in networks.items():
            if not isinstance(network, tuple):
                comparisons.append(network)
                continue
            layers, metadata = network
            task = progress.add_task(escape(name), total=len(layers))

            def on_layer(_: str, task: TaskID = task) -> None:
                progress.start()  # with the first layer: an argument out of range shows no bar
                progress.advance(task)

            try:
                comparison = compare_layers(layers, name=name, on_layer=on_layer, **settings)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            progress.update(task, completed=len(layers))
            recorded = {f"recorded {key}": value for key, value in metadata.items()}
            comparisons.append(comparison.assign_attrs(recorded))
            if save is not None:
                save_comparison(comparisons[-1], save / f"{name}.json")
    finally:
        if progress.live.is_started:
            progress.stop()
    return comparisons

"""The command `perturb-nc report`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
) -> None:
    """One self-contained HTML page: measured, predicted, and where the prediction fails."""
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, got {output}")
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "metric": metric, "align_layers": align or None}
    settings = {name: value for name, value in given.items() if value is not None}
    files = {run: existing(run / "statistics.safetensors" if run.is_dir() else run) for run in runs}
    names = [run.resolve().name if run.is_dir() else run.stem for run in runs]
    if len(set(names)) < len(names) or len(files) < len(runs):
        raise ValueError(f"RUNS must differ in name, which titles their sections; got {names}")
    from perturb_nc.study.comparison import load_comparison  # xarray loads slowly
    from perturb_nc.study.report import write_report

    loaded: list[xr.Dataset | Statistics] = []
    for file in files.values():
        if file.suffix.lower() != ".json":
            loaded.append((load_layers(file), load_metadata(file)))
        elif settings:
            raise ValueError(
                f"{', '.join(settings)} cannot be set for {file}, a finished comparison; leave out"
            )
        else:
            loaded.append(load_comparison(file))
    comparisons = _compared(dict(zip(names, loaded, strict=True)), settings)
    write_report(comparisons, output)
    print(f"wrote {output}")


def _compared(
    networks: "dict[str, xr.Dataset | Statistics]", settings: dict[str, Any]
) -> "list[xr.Dataset]":
    """Comparisons of all networks; statistics are compared now, with a bar for each."""
    from perturb_nc.study.compare import compare_layers

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    comparisons = []
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        for name, network in networks.items():
            if not isinstance(network, tuple):
                comparisons.append(network)
                continue
            layers, metadata = network
            task = progress.add_task(name, total=len(layers))
            try:
                comparison = compare_layers(
                    layers, name=name, on_layer=lambda *_, t=task: progress.advance(t), **settings
                )
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            progress.update(task, completed=len(layers))
            recorded = {f"recorded {key}": value for key, value in metadata.items()}
            comparisons.append(comparison.assign_attrs(recorded))
    return comparisons

"""The commands `perturb-nc sweep` and `perturb-nc plot`."""

from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from perturb_nc.layer_files import load_layers
from perturb_nc.statistics import ClassStatistics
from perturb_nc.storage import replacing
from perturb_nc.validation import at_least, at_most, nonnegative

MOST_VALUES = 10_000  # along an axis, or times of a path
_AXIS = "start:stop:count (even in the log), a,b,c or one number"
_MOST_WORKERS = 1000
Axis = Annotated[str, typer.Option(help=_AXIS)]
Store = Annotated[Path, typer.Option("--output", "-o", help="zarr store; goes on if it is there")]
Picture = Annotated[Path, typer.Option("--output", "-o", help="figure to write, .png or .pdf")]


def sweep(
    file: Annotated[Path, typer.Argument(help="class statistics of H0")],
    output: Store,
    lambda_w: Axis,
    lambda_h: Axis,
    beta: Axis,
    layer: Annotated[str | None, typer.Option(help="layer of FILE that is H0")] = None,
    bias: Annotated[bool, typer.Option(help="give the last layer a bias")] = False,
    flow_times: Annotated[str | None, typer.Option(help=f"central path too: {_AXIS}")] = None,
    chunk: Annotated[int, typer.Option(help="settings solved together")] = 256,
    workers: Annotated[int, typer.Option(help="processes, of one thread each; 0: all here")] = 0,
) -> None:
    """The certified optimum over a grid of λ_W, λ_H and β; stop and repeat it at will."""
    axes = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    values = {name: parse_axis(text, name) for name, text in axes.items()}
    times = None if flow_times is None else parse_axis(flow_times, "flow_times")
    at_most(at_least(workers, 0, "workers"), _MOST_WORKERS, "workers")
    statistics = _layer(file, layer)
    from perturb_nc.study.sweep import sweep as run  # xarray loads slowly
    from perturb_nc.study.sweep_plan import STATUSES

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True, markup=False))
    task = progress.add_task("settings")

    def on_chunk(finished: int, total: int) -> None:
        progress.start()  # once all arguments are known to be good
        progress.update(task, completed=finished, total=total)

    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn")) if workers else None
    try:
        dataset = run(
            statistics,
            lambda_w=values["lambda_w"],
            lambda_h=values["lambda_h"],
            beta=values["beta"],
            bias=bias,
            flow_times=times,
            executor=pool,
            store=output,
            chunk=chunk,
            on_chunk=on_chunk,
        )
    except KeyboardInterrupt:
        progress.console.print(f"stopped; repeat the command to go on with {output}")
        raise
    finally:
        if progress.live.is_started:
            progress.stop()
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    counts = Counter(STATUSES[code] for code in dataset["status"].values.ravel())
    proved = int(dataset["is_global"].sum())
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    print(f"wrote {output}: {found}; {proved} certified as the global optimum")


def plot(
    store: Annotated[Path, typer.Argument(help="a store of `perturb-nc sweep`, finished or not")],
    output: Picture,
    metric: Annotated[str, typer.Option(help="nc1, nc1_trace, nc2_etf or cdnv")] = "nc1",
    beta: Annotated[str | None, typer.Option(help="a,b,c: nearest ones are drawn")] = None,
) -> None:
    """Maps over (λ_W, λ_H): the metric, where it is certified, and which of the two moves it."""
    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--output must end in .png, .pdf or .svg, got {output}")
    betas = None if beta is None else [nonnegative(b, "beta") for b in parse_axis(beta, "beta")]
    from perturb_nc.show.maps import plot_maps
    from perturb_nc.show.plots import literal
    from perturb_nc.study.sweep_store import open_sweep

    dataset = open_sweep(store)
    size = f"K = {dataset.attrs['num_classes']}, d = {dataset.attrs['dim']}"
    figure = plot_maps(dataset, metric=metric, betas=betas, title=f"{literal(store.name)}: {size}")
    with replacing(output) as picture:
        figure.savefig(picture, dpi=150)
    print(f"wrote {output}")


def parse_axis(text: str, name: str) -> np.ndarray:
    """ "1e-4:1e-1:30" (a geometric sequence), "0,0.1,1" or "0.1" as an array.

    Raises:
        ValueError: anything else.
    """
    try:
        if ":" not in text:
            return np.array([float(part) for part in text.split(",")])
        start, stop, count = text.split(":")
        first, last, number = float(start), float(stop), int(count)
        if not (0 < first < last < np.inf and 2 <= number <= MOST_VALUES):
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{name} must be {_AXIS}, with 0 < start < stop and count in 2..{MOST_VALUES}, "
            f"got {text!r}"
        ) from None
    return np.geomspace(first, last, number)


def _layer(file: Path, name: str | None) -> ClassStatistics:
    layers = load_layers(file)
    if name is None and len(layers) == 1:
        return next(iter(layers.values()))
    if name not in layers:
        given = "give --layer" if name is None else f"there is no layer {name!r}"
        raise ValueError(f"{given}; the layers of {file} are {sorted(layers)}")
    return layers[name]

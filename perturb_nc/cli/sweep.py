"""The commands `perturb-nc sweep` and `perturb-nc plot`."""

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb_nc.cli.arguments import (
    MOST_VALUES,
    Bias,
    File,
    Json,
    Loss,
    Method,
    Reference,
    layers_for,
    progress_bar,
)
from perturb_nc.show.labels import printable

if TYPE_CHECKING:
    import numpy as np

    from perturb_nc.study.models import Layer

_AXIS = "start:stop:count (even in the log), a,b,c or one number"
_MOST_WORKERS = 1000
Axis = Annotated[str, typer.Option(help=_AXIS)]
Store = Annotated[Path, typer.Option("--output", "-o", help="zarr store; goes on if it is there")]
Picture = Annotated[Path, typer.Option("--output", "-o", help="figure to write, .png or .pdf")]


def sweep(
    file: File,
    output: Store,
    lambda_w: Axis,
    lambda_h: Axis,
    beta: Axis,
    reference: Reference = None,
    loss: Loss = "squared",
    bias: Bias = False,
    method: Method = "exact",
    flow_times: Annotated[str | None, typer.Option(help=f"central path too: {_AXIS}")] = None,
    chunk: Annotated[int, typer.Option(help="settings solved together")] = 256,
    workers: Annotated[int, typer.Option(help="processes, of one thread each; 0: all here")] = 0,
    as_json: Json = False,
) -> None:
    """The certified optimum over a grid of λ_W, λ_H and β; stop and repeat it at will."""
    from perturb_nc.cli.workers import processes
    from perturb_nc.storage import json_text
    from perturb_nc.study.sweep import sweep as run
    from perturb_nc.study.sweep_plan import STATUSES
    from perturb_nc.validation import at_least, at_most

    axes = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    values = {name: parse_axis(text, name) for name, text in axes.items()}
    times = None if flow_times is None else parse_axis(flow_times, "flow_times")
    at_most(at_least(workers, 0, "workers"), _MOST_WORKERS, "workers")
    layer = _reference(file, reference, loss)
    try:
        with processes(workers) as pool, progress_bar("settings") as update:
            dataset = run(
                layer,
                loss=loss,
                lambda_w=values["lambda_w"],
                lambda_h=values["lambda_h"],
                beta=values["beta"],
                bias=bias,
                method=method,
                flow_times=times,
                executor=pool,
                store=output,
                chunk=chunk,
                progress=update,
            )
    except KeyboardInterrupt:
        again = f"repeat the command to go on with {printable(str(output))}"
        print(f"stopped; {again}" if output.exists() else "stopped", file=sys.stderr)
        raise
    counts = Counter(STATUSES[code] for code in dataset["status"].values.ravel())
    proved = int(dataset["is_global"].sum())
    if as_json:
        print(json_text({"file": str(output), "status": counts, "is_global": proved}))
        return
    found = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    proof = f"{proved} certified as the global optimum"
    how = proof if method == "exact" else "in closed form"
    print(printable(f"wrote {output}: {found}; {how}"))


def plot(
    store: Annotated[Path, typer.Argument(help="a store of `perturb-nc sweep`, finished or not")],
    output: Picture,
    metric: Annotated[str, typer.Option(help="nc1, nc1_trace, nc2_etf or cdnv")] = "nc1",
    beta: Annotated[str | None, typer.Option(help="a,b,c: nearest ones are drawn")] = None,
    as_json: Json = False,
) -> None:
    """Maps over (λ_W, λ_H): the metric, where it is certified, and which of the two moves it."""
    from perturb_nc.show.labels import literal
    from perturb_nc.show.maps import plot_maps
    from perturb_nc.storage import json_text, replacing, writable
    from perturb_nc.study.sweep_store import open_sweep
    from perturb_nc.validation import nonnegative

    if output.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--output must end in .png, .pdf or .svg, got {output}")
    writable(output)
    betas = None if beta is None else [nonnegative(b, "beta") for b in parse_axis(beta, "beta")]

    dataset = open_sweep(store)
    size = f"K = {dataset.attrs['num_classes']}, d = {dataset.attrs['dim']}"
    figure = plot_maps(dataset, metric=metric, betas=betas, title=f"{literal(store.name)}: {size}")
    with replacing(output) as picture:
        figure.savefig(picture, dpi=150)
    print(json_text({"file": str(output)}) if as_json else printable(f"wrote {output}"))


def parse_axis(text: str, name: str) -> "np.ndarray":
    """ "1e-4:1e-1:30" (a geometric sequence), "0,0.1,1" or "0.1" as an array.

    Raises:
        ValueError: anything else.
    """
    import numpy as np

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


def _reference(file: Path, name: str | None, loss: str) -> "Layer":
    layers = layers_for(file, loss)
    if name is None and len(layers) == 1:
        return next(iter(layers.values()))
    if name not in layers:
        given = "give --reference" if name is None else f"there is no layer {name!r}"
        raise ValueError(f"{given}; the layers of {file} are {list(layers)}")
    return layers[name]

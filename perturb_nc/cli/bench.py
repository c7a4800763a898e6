"""The command `perturb-nc bench`."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb_nc.cli.arguments import (
    FolderIfAsked,
    Json,
    Loss,
    layers_for,
    name_of,
    progress_bar,
    refuse_file,
)

if TYPE_CHECKING:
    import xarray as xr

    from perturb_nc.joint_statistics import JointStatistics
    from perturb_nc.study.models import Layer

    Joints = dict[tuple[str, str], JointStatistics]

TimeLimit = Annotated[
    float | None,
    typer.Option(help="seconds for a network, after which path and chains predict no more"),
]


def bench(
    files: Annotated[list[Path], typer.Argument(help="class statistics of the layers of networks")],
    loss: Loss = "squared",
    metric: Annotated[str, typer.Option(help="places the layers, and is not judged")] = "nc1_span",
    joint: Annotated[
        Path | None,
        typer.Option(help="joint statistics of the layers (`save_joint`), for the straight lines"),
    ] = None,
    time_limit: TimeLimit = None,
    output: FolderIfAsked = None,
    as_json: Json = False,
) -> None:
    """Which theory of depth a network follows, how straight it is, and where each theory fails.

    Every layer is predicted by every theory without having been seen, and by naive rivals. With
    --loss cross-entropy path and chain have that loss, and all is measured on the samples kept.
    """
    from perturb_nc.layer_files import load_joint
    from perturb_nc.show import bench_tables, terminal
    from perturb_nc.show.bench import figure
    from perturb_nc.storage import json_text, replacing, write_json

    names = [name_of(file) for file in files]
    if len(set(names)) < len(names):
        raise ValueError(f"files must differ in name, which names their figures; got {names}")
    if joint is not None and len(files) > 1:
        raise ValueError(f"--joint is of one network, got {len(files)} files; give them one by one")
    limit = seconds(time_limit)
    refuse_file(output)
    joints = {} if joint is None else load_joint(joint)
    networks = {name: layers_for(file, loss) for name, file in zip(names, files, strict=True)}
    records: dict[str, Any] = {}
    for name, layers in networks.items():
        try:
            options: dict[str, Any] = {"loss": loss, "metric": metric, "joints": joints}
            found = benched(layers, name, time_limit=limit, **options)
            records[name] = bench_tables.record(found)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        if not as_json:
            terminal.show(*bench_tables.parts(records[name], title=name))
        if output is not None:
            with replacing(output / f"bench-{name}.png") as picture:
                figure(found, title=name).savefig(picture, dpi=150)
            write_json(output / "bench.json", records)  # what is finished is kept
    if as_json:
        print(json_text(records))
        return
    terminal.show(bench_tables.sees_table())
    if output is not None:
        written = (*(f"bench-{name}.png" for name in names), "bench.json")
        terminal.show(*(f"wrote {output / name}" for name in written))


def benched(
    layers: "Mapping[str, Layer]",
    name: str,
    *,
    metric: str,
    joints: "Joints",
    time_limit: float,
    loss: str = "squared",
) -> "xr.Dataset":
    """`theories_of_depth`, with a bar."""
    from perturb_nc.study.bench import theories_of_depth

    with progress_bar(f"{name}, bench") as update:
        return theories_of_depth(
            layers,
            name=name,
            loss=loss,
            metric=metric,
            joints=joints,
            time_limit=time_limit,
            progress=update,
        )


def seconds(time_limit: float | None) -> float:
    """A time limit as it is given, infinite where none is."""
    from perturb_nc.validation import positive

    return math.inf if time_limit is None else positive(time_limit, "time_limit")

"""The command `perturb-nc report`."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perturb_nc.cli.arguments import Json, layers_for, name_of, progress_bar, statistics_file
from perturb_nc.cli.bench import TimeLimit, benched, seconds
from perturb_nc.show.labels import printable

if TYPE_CHECKING:
    import xarray as xr

    from perturb_nc.study.models import Layer

    Statistics = tuple[dict[str, Layer], dict[str, str]]


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
    metric: Annotated[str | None, typer.Option(help="places the layers; default: nc1_span")] = None,
    loss: Annotated[
        str | None,
        typer.Option(help="of the pairs: squared, or cross-entropy, for RUNs that keep samples"),
    ] = None,
    bias: Annotated[bool, typer.Option(help="give the last layer of the pairs a bias")] = False,
    align: Annotated[bool, typer.Option(help="rotate layers onto each other first")] = False,
    pairs: Annotated[bool, typer.Option(help="fit (1) to each pair of layers, slow")] = True,
    bench: Annotated[
        bool, typer.Option("--bench", help="every theory of depth beside each layer, slow")
    ] = False,
    time_limit: TimeLimit = None,
    save: Annotated[
        Path | None, typer.Option(help="folder for the comparisons, as they finish: RUNs later on")
    ] = None,
    as_json: Json = False,
) -> None:
    """One self-contained HTML page: measured, predicted, and where the prediction fails."""
    from perturb_nc.show.report.page import write_report
    from perturb_nc.storage import existing, json_text, writable, writable_folder
    from perturb_nc.study.depth import PLACING

    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--output must end in .html, got {output}")
    writable(output)
    if save is not None:
        writable_folder(save)
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "metric": metric, "loss": loss}
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if align:
        settings["align_layers"] = True
    if bias:
        settings["bias"] = True
    if not pairs:
        settings["pairs"] = False
    if time_limit is not None and not bench:
        raise ValueError("--time-limit is of the bench; give --bench too, or leave it out")
    limit = seconds(time_limit)
    networks: dict[str, xr.Dataset | Statistics] = {}
    for file in [existing(statistics_file(run)) for run in runs]:
        name, network = _loaded(file, loss or "squared")
        if name in networks:
            raise ValueError(f"RUNs must differ in name; {file} is {name!r} again: rename it")
        networks[name] = network
    asked = [*settings, *(["bench"] if bench else [])]
    if asked and not any(isinstance(network, tuple) for network in networks.values()):
        names = ", ".join(asked)
        raise ValueError(f"{names} must be left out: every RUN is a finished comparison")
    options: dict[str, Any] = {"loss": loss or "squared", "metric": metric or PLACING}
    within = partial(benched, joints={}, time_limit=limit, **options)
    write_report(_compared(networks, settings, save, within if bench else None), output)
    done = {"file": str(output), "networks": list(networks)}
    print(json_text(done) if as_json else printable(f"wrote {output}"))


def _loaded(file: Path, loss: str) -> "tuple[str, xr.Dataset | Statistics]":
    """A network's name, and its comparison or else its layers and what was recorded with them."""
    if file.suffix.lower() == ".json":
        from perturb_nc.study.comparison import load_comparison  # xarray loads slowly

        comparison = load_comparison(file)
        return str(comparison.attrs["name"]), comparison
    from perturb_nc.layer_files import holds_statistics, load_metadata

    metadata = load_metadata(file) if holds_statistics(file) else {}
    return name_of(file), (layers_for(file, loss), metadata)


def _compared(
    networks: "dict[str, xr.Dataset | Statistics]",
    settings: Mapping[str, Any],
    save: Path | None,
    bench: "Callable[[dict[str, Layer], str], xr.Dataset] | None",
) -> "list[xr.Dataset]":
    """Comparisons of all networks, with their benches if one is given that makes them.

    Statistics are compared now, with a bar for each network.
    """
    from perturb_nc.study.comparison import save_comparison, with_bench

    comparisons = []
    for name, network in networks.items():
        if not isinstance(network, tuple):
            comparisons.append(network)
            continue
        layers, metadata = network
        try:
            comparison = _compare(layers, name, settings)
            if bench is not None:
                comparison = with_bench(comparison, bench(layers, name))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        recorded = {f"recorded {key}": value for key, value in metadata.items()}
        comparisons.append(comparison.assign_attrs(recorded))
        if save is not None:
            save_comparison(comparisons[-1], save / f"{name}.json")
    return comparisons


def _compare(layers: "dict[str, Layer]", name: str, settings: Mapping[str, Any]) -> "xr.Dataset":
    from perturb_nc.study.compare import compare_layers

    with progress_bar(name) as update:
        return compare_layers(layers, name=name, progress=update, **settings)

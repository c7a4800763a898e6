"""The commands on the central path: `perturb-nc flow` and `perturb-nc depth`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb_nc.cli.arguments import (
    MOST_VALUES,
    Beta,
    File,
    FolderIfAsked,
    Json,
    LambdaH,
    LambdaW,
    Reference,
    layers_in,
    name_of,
    refuse_file,
)

if TYPE_CHECKING:
    from perturb_nc.study.depth import DepthCalibration


def flow(
    file: File,
    lambda_w: LambdaW,
    lambda_h: LambdaH,
    beta: Beta = 0.0,
    until_time: Annotated[float, typer.Option(help="last flow time")] = 10.0,
    points: Annotated[int, typer.Option(help="times kept: 0, then evenly in their log")] = 40,
    reference: Reference = None,
    output: FolderIfAsked = None,
    as_json: Json = False,
) -> None:
    """The central path from a layer, and (β = 0) the later layers where they lie on it."""
    import numpy as np

    from perturb_nc.show import path_tables, terminal
    from perturb_nc.show.labels import literal
    from perturb_nc.show.panels import ALONG, whole
    from perturb_nc.show.plots import TRACES, plot_path
    from perturb_nc.storage import json_text, replacing, write_json
    from perturb_nc.study.depth import calibrate_depth
    from perturb_nc.theory.flow.central_path import central_path_flow
    from perturb_nc.theory.flow.path import scaled_traces
    from perturb_nc.validation import at_least, at_most, positive

    last = positive(until_time, "until_time")
    count = at_most(at_least(points, 3, "points"), MOST_VALUES, "points")
    times = [0.0, *np.geomspace(last / 1000, last, count - 1).tolist()]
    refuse_file(output)
    layers, left_out = terminal.of_one_width(layers_in(file), reference)
    start = next(iter(layers))
    path = central_path_flow(
        layers[start], lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, times=times
    )
    calibration = None
    if beta == 0 and len(layers) > 1:  # with an anchor ÑC1 may rise again, and place a layer twice
        calibration = calibrate_depth(layers, lambda_w=lambda_w, lambda_h=lambda_h)
    traces = scaled_traces(path)
    record = {"layer": start, **path_tables.flow_record(path, traces, calibration)}
    if output is not None:
        title = f"Central path from {literal(start)} ({literal(file.name)})"
        drawn = {"layers": calibration, "metrics": (*ALONG, *TRACES)}
        figure = whole(plot_path, path, title=title, **drawn)
        with replacing(output / "flow.png") as picture:
            figure.savefig(picture, dpi=150)
        write_json(output / "path.json", record)
    if as_json:
        print(json_text(record))
        return
    terminal.show(
        path_tables.flow_table(path, traces),
        *path_tables.flow_lines(path, calibration, left_out),
        *(f"wrote {output / name}" for name in ("path.json", "flow.png") if output is not None),
    )


def depth(
    files: Annotated[list[Path], typer.Argument(help="class statistics of the layers of networks")],
    lambda_w: Annotated[float | None, typer.Option(help="λ_W, default: fitted")] = None,
    lambda_h: LambdaH = 0.0,
    metric: Annotated[
        str, typer.Option(help="places the layers; one that is not there lists them all")
    ] = "nc1_span",
    reference: Reference = None,
    fit: Annotated[list[str] | None, typer.Option(help="layer to fit λ_W to; repeatable")] = None,
    output: FolderIfAsked = None,
    as_json: Json = False,
) -> None:
    """Place the layers of networks on the central path; its predictions beside measurements."""
    from perturb_nc.show import path_tables, terminal
    from perturb_nc.storage import json_text, write_json
    from perturb_nc.study.depth import calibrate_depth

    if lambda_w is not None and fit:
        raise ValueError(f"fit is for fitting λ_W; leave out --lambda-w {lambda_w:g} or --fit")
    stems = [name_of(file) for file in files]
    if len(set(stems)) < len(stems):
        raise ValueError(f"files must differ in name, which names their figures; got {stems}")
    refuse_file(output)
    networks = {file: terminal.of_one_width(layers_in(file), reference) for file in files}
    placed = {}
    for file, (layers, _) in networks.items():  # all of them, before anything is written
        try:
            placed[file] = calibrate_depth(
                layers, lambda_w=lambda_w, lambda_h=lambda_h, metric=metric, fit=fit or None
            )
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error
    records = {}
    for file, c in placed.items():
        left_out = networks[file][1]
        errors, judged = path_tables.median_errors(c, fit or [])
        records[name_of(file)] = path_tables.depth_record(c, errors, judged, left_out)
        if not as_json:
            lines = path_tables.depth_lines(errors, judged, left_out)
            terminal.show(path_tables.depth_table(c, title=str(file)), *lines)
    if output is not None:
        for file, c in placed.items():
            _draw(c, file, metric, output / f"depth-{name_of(file)}.png")
        write_json(output / "depth.json", records)
    if as_json:
        print(json_text(records))
    elif output is not None:
        names = (*(f"depth-{name}.png" for name in records), "depth.json")
        terminal.show(*(f"wrote {output / name}" for name in names))


def _draw(calibration: "DepthCalibration", file: Path, metric: str, figure: Path) -> None:
    """The placed layers of a network, beside what is measured."""
    from perturb_nc.show.labels import literal
    from perturb_nc.show.panels import whole
    from perturb_nc.show.plots import plot_comparison
    from perturb_nc.storage import replacing
    from perturb_nc.study.depth import COMPARED

    names = literal(file.name), literal(calibration.start)
    title = f"{names[0]}: layers placed by {metric} on the path from {names[1]}"
    decays = rf"$\lambda_W$ = {calibration.lambda_w:.3g}, $\lambda_H$ = {calibration.lambda_h:.3g}"
    shown = (*COMPARED, "flow_time")
    page = whole(plot_comparison, calibration, title=f"{title} ({decays})", metrics=shown)
    with replacing(figure) as picture:
        page.savefig(picture, dpi=150)

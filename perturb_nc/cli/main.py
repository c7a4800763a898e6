"""The `perturb-nc` command: tables for people, --json for machines, errors in one line."""

import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but not in __all__
from typer.exceptions import TyperException

from perturb_nc.cli import explore as cli_explore
from perturb_nc.cli import report as cli_report
from perturb_nc.cli import sweep as cli_sweep
from perturb_nc.cli.closed_forms import deep_ufm
from perturb_nc.cli.sweep import MOST_VALUES
from perturb_nc.layer_files import load_layers, save_layers
from perturb_nc.metrics import collapse_metrics
from perturb_nc.show import terminal as tables
from perturb_nc.statistics import ClassStatistics
from perturb_nc.storage import json_text, read_arrays, replacing, write_json
from perturb_nc.study.depth import CALIBRATING, calibrate_depth
from perturb_nc.study.predict import predict_layers
from perturb_nc.theory.flow.central_path import central_path_flow
from perturb_nc.theory.flow.path import scaled_traces
from perturb_nc.theory.spectrum import near_collapse_spectrum
from perturb_nc.validation import at_least, at_most, positive

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Perturbation analysis of near neural collapse.",
)

File = Annotated[Path, typer.Argument(help="class statistics, as `perturb-nc stats` writes them")]
LambdaW = Annotated[float, typer.Option(help="λ_W, weight of |W|²/(2K)")]
LambdaH = Annotated[float, typer.Option(help="λ_H, weight of |H|²/(2N)")]
Beta = Annotated[float, typer.Option(help="β, weight of |H - H0|²/(2N)")]
Start = Annotated[str | None, typer.Option(help="layer the path starts from, default: the first")]
Folder = Annotated[Path, typer.Option("--output", "-o", help="folder to write to")]
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]

app.command()(deep_ufm)


def main() -> None:
    """Entry point: exit code 2 and one line on stderr for whatever the user can mend."""
    warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a name drawn as boxes
    try:
        if code := app(standalone_mode=False):  # of Ctrl-C, which typer does not raise again
            sys.exit(code)
    except TyperException as error:
        _fail(error.format_message())
    except (ValueError, OSError, MemoryError) as error:
        _fail(str(error) or type(error).__name__)
    except (FloatingPointError, OverflowError) as error:
        _fail(f"the numbers leave the range of float64: rescale them ({error})")
    except LinAlgError as error:
        _fail(f"the features are badly scaled or offset: centre and rescale them ({error})")
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    if message:  # empty after the help page of a bare `perturb-nc`
        print("perturb-nc: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


@app.command()
def demo(
    output: Folder = Path("results/demo"),
    lambda_h: LambdaH = 5e-3,
    beta: Beta = 2.0,
    as_json: Json = False,
) -> None:
    """Train on the embedded digits, measure every layer, predict what follows, certify."""
    _refuse_file(output)
    from perturb_nc.cli.demo import TRAINING, run_demo  # matplotlib and scikit-learn load slowly
    from perturb_nc.networks.checkpoints import EpochRecord

    progress = Progress(*Progress.get_default_columns(), console=Console(stderr=True))
    task = progress.add_task("training a residual MLP on digits", total=TRAINING.epochs)

    def on_epoch(record: EpochRecord) -> None:
        progress.start()  # with the first epoch: an argument out of range shows no bar
        progress.update(task, completed=record.epoch)

    try:
        result = run_demo(output, lambda_h=lambda_h, beta=beta, config=TRAINING, on_epoch=on_epoch)
    finally:
        if progress.live.is_started:
            progress.stop()
    if as_json:
        print(json_text({name: p.as_dict() for name, p in result.predictions.items()}))
        return
    tables.show(
        f"train accuracy {result.training.accuracy:.3f}, test {result.test_accuracy:.3f}. "
        "λ_W is K × the weight decay of the last layer; λ_H and β are choices (see --help).",
        tables.prediction_table(result.predictions, result.hyperparameters),
        *(f"wrote {path}" for path in result.files),
    )


@app.command()
def stats(
    features: Annotated[Path, typer.Argument(help=".npz, .npy, .pt or .safetensors, (N, d)")],
    output: Annotated[Path, typer.Option("--output", "-o", help="file to write")],
    labels: Annotated[
        Path | None, typer.Option(help="file with the labels, when they are not in FEATURES")
    ] = None,
    features_key: Annotated[str, typer.Option(help="name of the features array")] = "features",
    labels_key: Annotated[str, typer.Option(help="name of the labels array")] = "labels",
    num_classes: Annotated[int | None, typer.Option(help="K, default: largest label + 1")] = None,
) -> None:
    """Reduce your own features and labels to class statistics."""
    _refuse_overwriting(output, features, labels)
    arrays = read_arrays(features)
    if labels is None and list(arrays) == [""]:
        raise ValueError(
            f"{features} holds one unnamed array, so labels are missing; give --labels FILE"
        )
    x = _pick(arrays, features_key, features)
    y = _pick(read_arrays(labels) if labels else arrays, labels_key, labels or features)
    statistics = ClassStatistics.from_features(x, y, num_classes)
    save_layers({"": statistics}, output, {"source": features.name})
    k, d, n = statistics.num_classes, statistics.dim, statistics.num_samples
    tables.show(f"wrote {output}: K = {k} classes, d = {d}, N = {n}")


@app.command()
def metrics(
    file: File,
    weight: Annotated[
        Path | None, typer.Option(help="weight (m, d) that reads the features, for NC3")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every collapse metric of every layer in FILE."""
    w = None if weight is None else _pick(read_arrays(weight), "weight", weight)
    layers = {name or file.stem: s for name, s in load_layers(file, span=True).items()}
    records = {name: collapse_metrics(s, w).as_dict() for name, s in layers.items()}
    if as_json:
        print(json_text(records))
        return
    tables.show(*tables.metrics_tables(records, title=str(file)))


@app.command()
def predict(
    file: File,
    lambda_w: LambdaW,
    lambda_h: LambdaH,
    beta: Beta,
    bias: Annotated[bool, typer.Option(help="give the last layer a bias")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write the predicted class statistics")
    ] = None,
    as_json: Json = False,
) -> None:
    """The certified optimum of the near-collapse model, with each layer in FILE as H0."""
    _refuse_overwriting(output, file)
    layers = _layers(file)
    predictions = predict_layers(layers, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, bias=bias)
    if output is not None:
        save_layers({name: p.solution.statistics for name, p in predictions.items()}, output)
    if as_json:
        print(json_text({name: p.as_dict() for name, p in predictions.items()}))
        return
    hyperparameters = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    wrote = [] if output is None else [f"wrote {output}"]
    tables.show(tables.prediction_table(predictions, hyperparameters), *wrote)


@app.command()
def spectrum(
    num_classes: Annotated[int, typer.Option(help="K")],
    dim: Annotated[int, typer.Option(help="d >= K")],
    samples_per_class: Annotated[int, typer.Option(help="n")],
    lambda_w: LambdaW,
    lambda_h: LambdaH,
    beta: Beta,
    as_json: Json = False,
) -> None:
    """Exact spectrum of the response at collapse (Theorem 4.2), beside the large-β form."""
    result = near_collapse_spectrum(
        num_classes=num_classes,
        dim=dim,
        samples_per_class=samples_per_class,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        beta=beta,
    )
    if as_json:
        print(json_text(asdict(result)))
        return
    tables.show(*tables.spectrum_tables(result))


@app.command()
def flow(
    file: File,
    lambda_w: LambdaW,
    lambda_h: LambdaH,
    beta: Beta = 0.0,
    until_time: Annotated[float, typer.Option(help="last flow time")] = 10.0,
    points: Annotated[int, typer.Option(help="times kept: 0, then evenly in their log")] = 40,
    layer: Start = None,
    output: Folder = Path("results/flow"),
    as_json: Json = False,
) -> None:
    """The central path from a layer, and (β = 0) the later layers where they lie on it."""
    from perturb_nc.show.plots import literal, plot_flow

    last = positive(until_time, "until_time")
    count = at_most(at_least(points, 3, "points"), MOST_VALUES, "points")
    times = [0.0, *np.geomspace(last / 1000, last, count - 1).tolist()]
    _refuse_file(output)
    layers, left_out = tables.of_one_width(_layers(file), layer)
    start = next(iter(layers))
    path = central_path_flow(
        layers[start], lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, times=times
    )
    calibration = None
    if beta == 0 and len(layers) > 1:  # with an anchor ÑC1 may rise again, and place a layer twice
        calibration = calibrate_depth(layers, lambda_w=lambda_w, lambda_h=lambda_h)
    traces = scaled_traces(path)
    record = {"layer": start, **tables.flow_record(path, traces, calibration)}
    title = f"Central path from {literal(start)} ({literal(file.name)})"
    figure = plot_flow(path, traces, calibration, title=title)
    with replacing(output / "flow.png") as picture:
        figure.savefig(picture, dpi=150)
    write_json(output / "path.json", record)
    if as_json:
        print(json_text(record))
        return
    tables.show(
        tables.flow_table(path, traces),
        *tables.flow_lines(path, calibration, left_out),
        *(f"wrote {output / name}" for name in ("path.json", "flow.png")),
    )


@app.command()
def depth(
    files: Annotated[list[Path], typer.Argument(help="class statistics of the layers of networks")],
    lambda_w: Annotated[float | None, typer.Option(help="λ_W, default: fitted")] = None,
    lambda_h: LambdaH = 0.0,
    metric: Annotated[str, typer.Option(help=f"places: {', '.join(CALIBRATING)}")] = "nc1_trace",
    start: Start = None,
    fit: Annotated[list[str] | None, typer.Option(help="layer to fit λ_W to; repeatable")] = None,
    output: Folder = Path("results/depth"),
    as_json: Json = False,
) -> None:
    """Place the layers of networks on the central path; its predictions beside measurements."""
    from perturb_nc.show.plots import literal, plot_depth

    if lambda_w is not None and fit:
        raise ValueError(f"fit is for fitting λ_W; leave out --lambda-w {lambda_w:g} or --fit")
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        raise ValueError(f"files must differ in name, which names their figures; got {stems}")
    _refuse_file(output)
    networks = {file: tables.of_one_width(_layers(file), start) for file in files}
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
        errors, judged = tables.median_errors(c, fit or [])
        records[file.stem] = tables.depth_record(c, errors, judged, left_out)
        figure = output / f"depth-{file.stem}.png"
        with replacing(figure) as picture:
            names = literal(file.name), literal(c.start)
            title = f"{names[0]}: layers placed by {metric} on the path from {names[1]}"
            plot_depth(c, title=title).savefig(picture, dpi=150)
        if not as_json:
            lines = tables.depth_lines(errors, judged, left_out)
            tables.show(tables.depth_table(c, title=str(file)), *lines, f"wrote {figure}")
    write_json(output / "depth.json", records)
    print(json_text(records) if as_json else f"wrote {output / 'depth.json'}")


app.command()(cli_sweep.sweep)
app.command()(cli_sweep.plot)
app.command()(cli_explore.explore)
app.command()(cli_report.report)


def _layers(file: Path) -> dict[str, ClassStatistics]:
    """Layers of a file; one without a name gets the file's."""
    return {name or file.stem: s for name, s in load_layers(file).items()}


def _pick(arrays: Mapping[str, Tensor], key: str, path: Path) -> Tensor:
    if key in arrays:
        return arrays[key]
    if list(arrays) == [""]:
        return arrays[""]
    raise ValueError(f"{path} holds arrays {sorted(arrays)}, none named {key!r}; see --help")


def _refuse_overwriting(output: Path | None, *inputs: Path | None) -> None:
    for path in inputs:
        if path and path.exists() and output and output.exists() and output.samefile(path):
            raise ValueError(f"--output {output} is the input {path}; give another file")


def _refuse_file(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output must be a folder, got the file {folder}; give another name")

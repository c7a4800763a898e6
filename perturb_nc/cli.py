"""The `perturb-nc` command: tables for people, --json for machines, errors in one line."""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from torch import Tensor
from typer.exceptions import TyperException

from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics, load_layers, save_layers
from perturb_nc.storage import json_text, read_arrays
from perturb_nc.study.compare import LayerPrediction, predict_layers
from perturb_nc.theory.minimize import Status
from perturb_nc.theory.spectrum import near_collapse_spectrum

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
Json = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


def main() -> None:
    """Entry point: exit code 2 and one line on stderr for whatever the user can mend."""
    try:
        app(standalone_mode=False)
    except TyperException as error:
        _fail(error.format_message())
    except (ValueError, OSError, MemoryError, FloatingPointError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    if message:  # empty after the help page of a bare `perturb-nc`
        print("perturb-nc: " + " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder to write to")] = Path(
        "results/demo"
    ),
    lambda_h: LambdaH = 5e-3,
    beta: Beta = 2.0,
    as_json: Json = False,
) -> None:
    """Train on the embedded digits, measure every layer, predict what follows, certify."""
    from perturb_nc.demo import TRAINING, run_demo  # matplotlib and scikit-learn load slowly

    with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task("training a residual MLP on digits", total=TRAINING.epochs)
        result = run_demo(
            output,
            lambda_h=lambda_h,
            beta=beta,
            config=TRAINING,
            on_epoch=lambda record: progress.update(task, completed=record.epoch),
        )
        progress.update(task, completed=TRAINING.epochs)
    if as_json:
        print(json_text({name: p.as_dict() for name, p in result.predictions.items()}))
        return
    console = Console()
    console.print(
        f"train accuracy {result.training.accuracy:.3f}, test {result.test_accuracy:.3f}. "
        "λ_W is K × the weight decay of the last layer; λ_H and β are choices (see --help)."
    )
    console.print(_prediction_table(result.predictions, result.hyperparameters))
    for path in result.files:
        console.print(f"wrote {path}", soft_wrap=True)


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
    x = _array(features, features_key)
    y = _array(labels if labels is not None else features, labels_key)
    statistics = ClassStatistics.from_features(x, y, num_classes)
    statistics.save(output, {"source": features.name})
    k, d, n = statistics.num_classes, statistics.dim, statistics.num_samples
    Console().print(f"wrote {output}: K = {k} classes, d = {d}, N = {n}", soft_wrap=True)


@app.command()
def metrics(
    file: File,
    weight: Annotated[
        Path | None, typer.Option(help="weight (m, d) that reads the features, for NC3")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every collapse metric of every layer in FILE."""
    w = None if weight is None else _array(weight, "weight")
    records = {
        name or file.stem: collapse_metrics(s, w).as_dict() for name, s in load_layers(file).items()
    }
    if as_json:
        print(json_text(records))
        return
    table = Table(Column("metric", no_wrap=True), title=str(file), box=SIMPLE_HEAD)
    for name in records:
        table.add_column(name, justify="right", overflow="fold")
    for metric in next(iter(records.values())):
        table.add_row(metric, *(_number(record[metric]) for record in records.values()))
    Console().print(table)


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
    layers = {name or file.stem: s for name, s in load_layers(file).items()}
    predictions = predict_layers(layers, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, bias=bias)
    if output is not None:
        save_layers({name: p.solution.statistics for name, p in predictions.items()}, output)
    if as_json:
        print(json_text({name: p.as_dict() for name, p in predictions.items()}))
        return
    console = Console()
    hyperparameters = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    console.print(_prediction_table(predictions, hyperparameters))
    if output is not None:
        console.print(f"wrote {output}", soft_wrap=True)


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
    whole = Table("F, dN × dN", "eigenvalue", "multiplicity", box=SIMPLE_HEAD)
    for row in zip(result.names, result.eigenvalues, result.multiplicities, strict=True):
        whole.add_row(row[0], f"{row[1]:.6f}", str(row[2]))
    block = Table("F_kk, dn × dn", "exact", "O(1/β)", "multiplicity", box=SIMPLE_HEAD)
    columns = (result.block_values, result.large_beta_block_values, result.block_multiplicities)
    for name, exact, linear, count in zip(result.block_names, *columns, strict=True):
        block.add_row(name, f"{exact:.6f}", f"{linear:.6f}", str(count))
    console = Console()
    console.print(whole, block)
    console.print(
        f"σ_max(F_kj): exact {result.off_block_value:.6f}, "
        f"O(1/β) {result.large_beta_off_block_value:.6f}"
    )


_COLUMNS = {
    "nc1_trace": "ÑC1",
    "nc1": "NC1",
    "nc2_etf": "NC2",
    "nc3_duality": "NC3",
    "cdnv": "CDNV",
}


def _prediction_table(
    predictions: Mapping[str, LayerPrediction], hyperparameters: Mapping[str, float]
) -> Table:
    """Two rows a layer: its own metrics, and the model's for the features that follow."""
    values = ", ".join(f"{name} {value:g}" for name, value in hyperparameters.items())
    table = Table(title=values, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    table.add_column()
    for label in (*_COLUMNS.values(), "r", "gap"):
        table.add_column(label, justify="right")
    table.add_column("optimum")
    for name, p in predictions.items():
        table.add_row(name, "measured", *_cells(p.measured))
        c = p.solution.certificate
        proof = "global" if c.is_global else f"< {c.gap / p.solution.objective:.1%} off"
        if p.solution.status is not Status.CONVERGED:
            proof += f"; {p.solution.status.value}"
        numbers = (_number(c.spectral_ratio), f"{max(c.gap, 0.0):.0e}")  # rounding may be below 0
        table.add_row(" after it", "predicted", *_cells(p.predicted), *numbers, proof)
    return table


def _cells(metrics: CollapseMetrics) -> list[str]:
    return [_number(getattr(metrics, name)) for name in _COLUMNS]


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _array(path: Path, key: str) -> Tensor:
    arrays = read_arrays(path)
    if key in arrays:
        return arrays[key]
    if list(arrays) == [""]:
        return arrays[""]
    raise ValueError(f"{path} holds arrays {sorted(arrays)}, none named {key!r}; see --help")

"""The commands on layers: `perturb-nc metrics` and `predict`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from perturb_nc.cli.arguments import (
    All,
    Beta,
    Bias,
    File,
    Json,
    LambdaH,
    LambdaW,
    Method,
    layers_in,
    name_of,
    pick,
    refuse_overwriting,
    statistics_file,
)

if TYPE_CHECKING:
    from perturb_nc.study.predict import LayerPrediction, NearPrediction
    from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem

LOSSES = ("squared", "cross-entropy")


def metrics(
    file: File,
    weight: Annotated[
        Path | None, typer.Option(help="weight (m, d) that reads the features, for NC3")
    ] = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """Every collapse metric of every layer in FILE."""
    from perturb_nc.layer_files import load_layers
    from perturb_nc.metrics import collapse_metrics
    from perturb_nc.sampling import debiased_metrics, sampling_note
    from perturb_nc.show import layer_tables, terminal
    from perturb_nc.storage import json_text, read_arrays

    w = None if weight is None else pick(read_arrays(weight), "weight", weight)
    found = load_layers(statistics_file(file), span=True)  # statistics in a span have metrics too
    layers = {name or name_of(file): s for name, s in found.items()}
    records = {
        name: {**collapse_metrics(s, w).as_dict(), **debiased_metrics(s).as_dict()}
        for name, s in layers.items()
    }
    if as_json:
        print(json_text(records))
        return
    notes = [f"{name}: {note}" for name, s in layers.items() if (note := sampling_note(s))]
    terminal.show(
        *layer_tables.metrics_tables(records, title=str(file), everything=everything),
        *(notes if everything else terminal.first(notes)),
    )


def predict(
    file: File,
    lambda_w: LambdaW,
    lambda_h: LambdaH,
    beta: Beta,
    bias: Bias = False,
    method: Method = "exact",
    loss: Annotated[
        str, typer.Option(help="squared, or cross-entropy: FILE then holds features and labels")
    ] = "squared",
    labels_key: Annotated[
        str, typer.Option(help="name of the labels in a file of features; the rest are layers")
    ] = "labels",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write the predicted class statistics")
    ] = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """The certified optimum of the near-collapse model, with each layer in FILE as H0.

    With --method vicinity the closed form near collapse, and whether the layer is near enough.

    With --loss cross-entropy FILE (.npz, .pt or .safetensors) holds the features of layers, (N, d)
    each, and their labels: what `collect_features` gives. The squared loss needs class statistics.
    """
    from perturb_nc.layer_files import save_layers
    from perturb_nc.show import layer_tables, terminal
    from perturb_nc.storage import json_text
    from perturb_nc.study.predict import predict_layers, predict_near_collapse, predict_problems

    refuse_overwriting(output, file)
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, got {loss!r}")
    hyperparameters = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    predictions: Mapping[str, LayerPrediction | NearPrediction]
    if method == "vicinity":
        if loss != "squared":
            raise ValueError(f"method vicinity is of the squared loss, got loss {loss!r}")
        predictions = near = predict_near_collapse(layers_in(file), **hyperparameters, bias=bias)
        table = layer_tables.near_collapse_table(near, hyperparameters)
    else:
        if loss == "squared":
            solved = predict_layers(
                layers_in(file), lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, bias=bias
            )
        else:
            solved = predict_problems(
                _cross_entropy_problems(file, labels_key, **hyperparameters, bias=bias)
            )
        predictions = solved
        table = layer_tables.prediction_table(solved, hyperparameters, everything=everything)
    if output is not None:
        save_layers({name: p.solution.statistics for name, p in predictions.items()}, output)
    if as_json:
        print(json_text({name: p.as_dict() for name, p in predictions.items()}))
        return
    wrote = [] if output is None else [f"wrote {output}"]
    terminal.show(table, *wrote)


def _cross_entropy_problems(
    file: Path, labels_key: str, *, lambda_w: float, lambda_h: float, beta: float, bias: bool
) -> "dict[str, CrossEntropyProblem]":
    """A problem for every array of a file of features but the labels."""
    from perturb_nc.storage import read_arrays
    from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem

    arrays = dict(read_arrays(file))
    labels = arrays.pop(labels_key, None)
    if labels is None or not arrays:
        raise ValueError(
            f"{file} must hold the features of layers and their labels, as {labels_key!r}, for the "
            f"loss cross-entropy; got arrays {sorted(read_arrays(file))}"
        )
    return {
        name: CrossEntropyProblem(
            x, labels, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta, bias=bias
        )
        for name, x in arrays.items()
    }

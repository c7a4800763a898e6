"""The commands on layers: `perturb-nc metrics` and `predict`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from perturb_nc.cli.arguments import (
    All,
    Beta,
    Bias,
    File,
    Json,
    LabelsKey,
    LambdaH,
    LambdaW,
    Loss,
    Method,
    layers_for,
    name_of,
    pick,
    refuse_overwriting,
    statistics_file,
)


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
    from perturb_nc.metrics.sampling import debiased_metrics, sampling_note
    from perturb_nc.metrics.table import collapse_metrics
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
    loss: Loss = "squared",
    labels_key: LabelsKey = "labels",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="write the predicted class statistics")
    ] = None,
    everything: All = False,
    as_json: Json = False,
) -> None:
    """The certified optimum of the near-collapse model, with each layer in FILE as H0.

    With --method vicinity the closed form near collapse, and whether the layer is near enough.

    With --loss cross-entropy FILE keeps samples beside the class statistics, or it (.npz, .pt or
    .safetensors) holds the features of layers, (N, d) each, and their labels.
    """
    from perturb_nc.layer_files import save_layers
    from perturb_nc.show import layer_tables, terminal
    from perturb_nc.storage import json_text
    from perturb_nc.study.predict import predict_layers

    refuse_overwriting(output, file)
    hyperparameters: dict[str, Any] = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    layers = layers_for(file, loss, labels_key)
    model: dict[str, Any] = {"loss": loss, "bias": bias, "method": method}
    predictions = predict_layers(layers, **hyperparameters, **model)
    if method == "vicinity":
        table = layer_tables.near_collapse_table(predictions, hyperparameters)
    else:
        table = layer_tables.prediction_table(predictions, hyperparameters, everything=everything)
    if output is not None:
        save_layers({name: p.solution.statistics for name, p in predictions.items()}, output)
    if as_json:
        print(json_text({name: p.as_dict() for name, p in predictions.items()}))
        return
    wrote = [] if output is None else [f"wrote {output}"]
    terminal.show(table, *wrote)

"""Predicted beside measured: every layer of a network, every model, and naive rivals.

One labelled dataset holds it all; tables, figures and the report read it.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import xarray as xr
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but not in __all__

from perturb_nc.metrics.sampling import sampling_note
from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.study.alignment import align
from perturb_nc.study.comparison import empty_comparison
from perturb_nc.study.depth import CALIBRATING, PLACING, calibrate_stage
from perturb_nc.study.fit import fit_model
from perturb_nc.study.misfit import residual
from perturb_nc.study.models import Layer, Model, model_of
from perturb_nc.study.predict import LayerPrediction
from perturb_nc.study.quantities import QUANTITIES, quantities
from perturb_nc.study.rivals import RIVALS, Prediction, Stage, stages
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status
from perturb_nc.theory.vicinity.prediction import SmallVicinity
from perturb_nc.validation import named, nonnegative, positive

_LATE = "time_limit came first"


def compare_layers(
    layers: Mapping[str, Layer],
    *,
    name: str,
    loss: str = "squared",
    bias: bool = False,
    metric: str = PLACING,
    lambda_w: float | None = None,
    lambda_h: float = 0.0,
    fit: Sequence[str] = (),
    pairs: bool = True,
    align_layers: bool = False,
    parameters: xr.Dataset | None = None,
    predictions: Mapping[str, LayerPrediction] | None = None,
    intervals: xr.DataArray | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Hold two predictions of the theory and three rivals against every layer of a network.

    Layers that follow each other with one width make a stage; each stage is compared by itself.

    - "path": the central path from the first layer of the stage (`calibrate_depth`), a layer's
      flow time set by `metric`. λ_W is fitted to every second layer and the last (or those named
      in `fit`), the others are held out.
    - "pair": the optimum of (1) with the layer before as H0 and the (λ_W, λ_H, β) that fit best
      (`fit_regularization`), under `loss`, with or without `bias`. Held out only where the
      parameters come from another comparison.
    - "shrinkage": Σ_W of the first layer times one factor, also set by `metric`.
    - "interpolation": everything linear in its log between the stage's first and last layer.
    - "unchanged": the layer before.

    The rivals are those of `perturb_nc.study.rivals`.

    Args:
        layers: name → class statistics in order of depth, one set of classes; for cross-entropy
            name → `LayerSamples`, the same samples in each, whose statistics are the measured ones.
        name: of the network, for tables and figures.
        loss: of the pair, "squared" or "cross-entropy"; the path has the squared loss.
        bias: whether the last layer of the pair has a bias.
        metric: by which layers are placed, as for `calibrate_depth`.
        lambda_w: of the path; None to fit it.
        lambda_h: of the path.
        fit: layers that decide λ_W.
        pairs: whether to fit pairs, which takes most of the time: seconds each at d = 512.
        align_layers: rotate each layer onto the one before by its class means (`align`) before
            the pair is fitted: for networks whose layers do not share a basis, having no skip
            connections.
        parameters: another comparison (of another network, epoch or split, with layers of the
            same names), from which all parameters are taken: nothing is fitted then.
        predictions: of `predict_layers` for these layers, the pair's, at parameters that
            were chosen; they are neither fitted nor solved for again.
        intervals: of `sampling_intervals`, kept beside the measurements.
        time_limit: seconds after which nothing more is fitted: "time_limit" in `path_status`,
            `fit_status` and `reason` of what was not finished.
        progress: called as progress(layers, of how many) after every layer.

    Returns:
        A dataset with dimensions layer, model, quantity, index (of eigenvalues of Σ_W/tr Σ_B),
        parameter: `measured`, `predicted`, `spectrum`, `predicted_spectrum`, `held_out`, `reason`
        (why there is no prediction, or ""), `flow_time`, `path_lambda_w`, `path_status` (how its
        fit ended), and for the pair `regularization`, `standard_error` (of its log; NaN: not
        determined), `residual` beside `unchanged_residual` (`study.residual`), `spectral_ratio`,
        `gap`, `fit_status`. NaN where there is none.

    Raises:
        ValueError: no layers, classes that differ, an unknown metric or layer, parameters out of
            range or of other layers.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.0, times=[0.2, 0.5])
        >>> layers = {"a": statistics, "b": path.statistics(0), "c": path.statistics(1)}
        >>> table = pnc.compare_layers(layers, name="a path", lambda_w=0.1, pairs=False)
        >>> table["flow_time"].sel(layer=["b", "c"]).values.round(2).tolist()
        [0.2, 0.5]

    See Also:
        error_table: errors of every model. plot_comparison, write_report: its pictures.

    Source: docs §4.2, 4.6.
    """
    named(layers, "layers", "ClassStatistics")
    models = {
        layer: model_of(given, loss, bias=bias, name=f"layer {layer!r}")
        for layer, given in layers.items()
    }
    statistics = {layer: model.statistics for layer, model in models.items()}
    _check(statistics, metric, lambda_w, lambda_h, fit, parameters)
    _check_predictions(models, parameters, predictions)
    clock = Clock.of(time_limit, progress)
    runs = stages(statistics, metric)
    table = empty_comparison(runs)
    table.attrs |= {
        "name": name,
        "loss": loss,
        "metric": metric,
        "lambda_h": lambda_h,
        "align": str(align_layers).lower(),
        "parameters_from": "" if parameters is None else parameters.attrs["name"],
    }
    notes = {layer: note for layer, s in statistics.items() if (note := sampling_note(s))}
    table.attrs["sampling"] = ""
    if notes:
        layer, note = next(iter(notes.items()))
        table.attrs["sampling"] = f"{len(notes)} of {len(layers)} layers, as {layer}: {note}"
    if intervals is not None:
        table["interval"] = intervals.reindex(layer=list(layers), quantity=list(QUANTITIES))
    done, total = 0, sum(len(stage.names) - 1 for stage in runs)
    for stage in runs:
        later = stage.names[1:]
        if not stage.is_alone:
            for model, rival in RIVALS.items():
                _fill(table, model, later, rival(stage))
            fixed = lambda_w if parameters is None else _path_lambda_w(parameters, stage)
            chosen = [n for n in later if n in fit] or sorted({*later[1::2], later[-1]})
            _fill_path(table, stage, fixed, chosen, clock)
        for before, layer in pairwise(stage.names):
            observed, reference = statistics[layer], statistics[before]
            if align_layers:
                observed = align(observed, reference)
            table["unchanged_residual"].loc[layer] = residual(reference, observed)
            if predictions is not None:
                table["fit_status"].loc[layer] = "given"
                _fill_optimum(table, layer, predictions[before].solution, observed, True)
            elif pairs:
                _fill_pair(table, layer, models[before], observed, parameters, clock)
            else:
                table["reason"].loc["pair", layer] = "pairs were not asked for"
            done += 1
            clock.report(done, total)
    return table


def _fill(table: xr.Dataset, model: str, later: Sequence[str], prediction: Prediction) -> None:
    for layer, metrics in prediction.metrics.items():
        at = {"model": model, "layer": layer}
        table["predicted"].loc[at] = quantities(metrics)
        table["predicted_spectrum"].loc[at] = prediction.spectra[layer][0]
    held_out = [layer not in prediction.given for layer in later]
    table["held_out"].loc[{"model": model, "layer": list(later)}] = held_out


def _fill_path(
    table: xr.Dataset, stage: Stage, lambda_w: float | None, fit: Sequence[str], clock: Clock
) -> None:
    """The path, at every layer but the first."""
    later, lambda_h = stage.names[1:], table.attrs["lambda_h"]
    try:
        found = calibrate_stage(
            stage, lambda_w=lambda_w, lambda_h=lambda_h, fit=fit, clock=clock.silent()
        )
    except (ValueError, LinAlgError) as error:  # of these features: the other stages go on
        reason = " ".join(str(error).split())
        table["reason"].loc[{"model": "path", "layer": later}] = reason
        return
    _fill(table, "path", later, found.path)
    table["flow_time"].loc[{"layer": later}] = [found.times[n] for n in later]
    table["path_lambda_w"].loc[{"layer": later}] = found.lambda_w
    table["path_status"].loc[{"layer": later}] = found.status.name.lower()
    missing = [n for n in later if n not in found.placed]
    reason = f"the path does not come by its {stage.metric}"
    if found.status is Status.TIME_LIMIT:
        reason = _LATE
    elif math.isnan(found.lambda_w):
        reason = (
            f"no layer that λ_W could be fitted to: the path comes by the {stage.metric} of none"
        )
    table["reason"].loc[{"model": "path", "layer": missing}] = reason


def _fill_pair(
    table: xr.Dataset,
    layer: str,
    before: Model,
    observed: ClassStatistics,
    parameters: xr.Dataset | None,
    clock: Clock,
) -> None:
    at = {"model": "pair", "layer": layer}
    if clock.expired():
        table["reason"].loc[at], table["fit_status"].loc[layer] = _LATE, "time_limit"
        return
    try:
        if parameters is None:
            solution = _fitted(table, layer, before, observed, clock)
        else:
            values = parameters["regularization"].sel(layer=layer)
            solution = _transferred(table, layer, before, values, clock)
    except (ValueError, LinAlgError) as error:
        table["reason"].loc[at] = " ".join(str(error).split())
        return
    _fill_optimum(table, layer, solution, observed, parameters is not None)


def _fill_optimum(
    table: xr.Dataset,
    layer: str,
    solution: Solution | SmallVicinity,
    observed: ClassStatistics,
    held_out: bool,
) -> None:
    given = frozenset() if held_out else frozenset({layer})
    _fill(table, "pair", [layer], Prediction.of({layer: solution.statistics}, given))
    problem = solution.problem
    table["regularization"].loc[layer] = [getattr(problem, name) for name in HYPERPARAMETERS]
    table["residual"].loc[layer] = residual(solution.statistics, observed)
    table["spectral_ratio"].loc[layer] = solution.certificate.spectral_ratio
    table["gap"].loc[layer] = solution.certificate.gap


def _fitted(
    table: xr.Dataset, layer: str, before: Model, observed: ClassStatistics, clock: Clock
) -> Solution:
    found = fit_model(before, observed, clock=clock.silent())
    errors = found.standard_error
    for name in HYPERPARAMETERS:
        # Infinite where the statistics do not determine it; a JSON file has no infinity.
        error = errors[name]
        table["standard_error"].loc[layer, name] = error if math.isfinite(error) else math.nan
    table["fit_status"].loc[layer] = found.status.name.lower()
    return found.solution


def _transferred(
    table: xr.Dataset, layer: str, before: Model, values: xr.DataArray, clock: Clock
) -> Solution:
    if bool(values.isnull().any()):
        raise ValueError("the other comparison has no parameters for this layer")
    w, h, b = (float(values.sel(parameter=name)) for name in HYPERPARAMETERS)
    problem = before.problem(lambda_w=w, lambda_h=h, beta=b)
    solution = minimize(problem, time_limit=clock.left())
    late = solution.status is Status.TIME_LIMIT
    table["fit_status"].loc[layer] = "time_limit" if late else "transferred"
    return solution


def _path_lambda_w(parameters: xr.Dataset, stage: Stage) -> float:
    """λ_W of the other comparison's path over these layers."""
    return float(parameters["path_lambda_w"].sel(layer=stage.names[1:]).max())


def _check_predictions(
    models: Mapping[str, Model],
    parameters: xr.Dataset | None,
    predictions: Mapping[str, LayerPrediction] | None,
) -> None:
    """ValueError when predictions are not those of these layers."""
    if predictions is None:
        return
    if parameters is not None:
        raise ValueError("predictions have parameters of their own; leave parameters out")
    for name, model in models.items():
        if name not in predictions:
            raise ValueError(f"predictions must hold every layer, {name!r} is missing")
        if not model.made(predictions[name].solution.problem):
            raise ValueError(f"predictions must be made from these layers; {name!r} is another")


def _check(
    layers: Mapping[str, ClassStatistics],
    metric: str,
    lambda_w: float | None,
    lambda_h: float,
    fit: Sequence[str],
    parameters: xr.Dataset | None,
) -> None:
    """ValueError when the arguments do not fit together."""
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    for name, statistics in layers.items():
        check_full(statistics, f"layer {name!r}")
    classes = {name: s.num_classes for name, s in layers.items()}
    if len(set(classes.values())) > 1:
        raise ValueError(f"layers must share one set of classes, got K = {classes}")
    if metric not in CALIBRATING:
        raise ValueError(f"metric must be one of {', '.join(CALIBRATING)}, got {metric!r}")
    nonnegative(lambda_h, "lambda_h")
    if lambda_w is not None:
        positive(lambda_w, "lambda_w")
    if unknown := [name for name in fit if name not in layers]:
        raise ValueError(f"fit must name layers, got {unknown}; layers are {list(layers)}")
    if parameters is None:
        return
    if lambda_w is not None or fit:
        raise ValueError("parameters gives λ_W already; leave lambda_w and fit out")
    theirs = parameters["layer"].values.tolist()
    if missing := [name for name in layers if name not in theirs]:
        raise ValueError(f"parameters must hold the same layers, but {missing} are not in {theirs}")
    for stage in stages(layers, metric):
        if not stage.is_alone and math.isnan(_path_lambda_w(parameters, stage)):
            raise ValueError(f"parameters holds no λ_W of a path over {stage.names}")

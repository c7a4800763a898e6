"""Swapped and absurd arguments: every verb names the argument, what it got and the remedy."""

import math

import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc.layer_files import load_samples
from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.study.sweep_store import open_sweep
from perturb_nc.theory.flow.path import FlowPath

X = torch.randn(24, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
STATISTICS = pnc.ClassStatistics.from_features(X, Y)
MODEL, LOADER = torch.nn.Linear(5, 3), [(X, Y)]
PARAMETERS = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0}
NAMES = r"must be a dictionary, name → .*, got {}; pass one as"


def nameless(argument, kind):
    return argument + " " + NAMES.format(kind)


CALLS = {
    "intervals": (lambda: pnc.sampling_intervals(X, Y), nameless("features", "Tensor")),
    "intervals, swapped": (
        lambda: pnc.sampling_intervals(Y, {"a": X}),
        nameless("features", "Tensor"),
    ),
    "scores without statistics": (
        lambda: pnc.nearest_mean_scores(MODEL, LOADER, STATISTICS),
        nameless("statistics", "ClassStatistics"),
    ),
    "scores, swapped": (
        lambda: pnc.nearest_mean_scores(LOADER, MODEL, {"": STATISTICS}),
        "model must be Module, got list; the order is model, loader, statistics",
    ),
    "scores, statistics first": (
        lambda: pnc.nearest_mean_scores(MODEL, {"": STATISTICS}, LOADER),
        nameless("statistics", "list"),
    ),
    "scores of features": (
        lambda: pnc.nearest_mean_scores(MODEL, LOADER, {"": X}),
        r"statistics\[''\] must be Moments, got Tensor; collect_statistics gives them",
    ),
    "calibration": (lambda: pnc.calibrate_depth([STATISTICS] * 2), nameless("layers", "list")),
    "comparison": (
        lambda: pnc.compare_layers(STATISTICS, name="n"),
        nameless("layers", "ClassStatistics"),
    ),
    "saved layers": (
        lambda: pnc.save_layers("file", {"a": STATISTICS}),
        nameless("layers", "str"),
    ),
    "saved features": (
        lambda: pnc.save_layers({"a": X}, "file"),
        r"layers\['a'\] must be ClassStatistics or SpanStatistics, got Tensor; collect_statistics",
    ),
    "debiased metrics": (
        lambda: pnc.metrics.debiased_metrics(X),
        "statistics must be ClassStatistics or SpanStatistics, got Tensor; ClassStatistics.from",
    ),
    "halves": (
        lambda: pnc.metrics.split_half_nc1(STATISTICS, X),
        "second must be ClassStatistics, got Tensor; ClassStatistics.from_features",
    ),
    "module for its weight": (
        lambda: pnc.collapse_metrics(STATISTICS, MODEL),
        "weight must be an array .* got Linear: it is a module; pass its weight",
    ),
    "writer": (
        lambda: pnc.CollapseMonitor(MODEL, LOADER, tensorboard="runs"),
        "tensorboard must be ScalarWriter, got str; pass a SummaryWriter",
    ),
    "log": (
        lambda: pnc.CollapseMonitor(MODEL, LOADER, log="wandb"),
        "log must be Callable, got str; pass a function of one dictionary",
    ),
    "metrics": (lambda: pnc.collapse_metrics(X, Y), "statistics must be Moments, got Tensor"),
    "optimum": (
        lambda: pnc.minimize(STATISTICS),
        "problem must be NearCollapseProblem, got ClassStatistics; make one from statistics",
    ),
    "certificate": (
        lambda: pnc.certify(STATISTICS, X),
        "problem must be NearCollapseProblem, got ClassStatistics",
    ),
    "response": (
        lambda: pnc.linear_response(X, Y, STATISTICS),
        r"solution must be Solution, got Tensor; minimize\(problem\) gives one",
    ),
    "derivatives": (
        lambda: pnc.hyperparameter_response(STATISTICS),
        "solution must be Solution, got ClassStatistics",
    ),
    "vicinities": (
        lambda: pnc.small_vicinity_batch(X, **PARAMETERS),
        "statistics must be ClassStatistics with the whole Σ_W, got Tensor",
    ),
    "batch of one": (
        lambda: pnc.minimize_batch(STATISTICS, **PARAMETERS),
        r"lambda_w must be a list, one value for each setting, got 0\.1; pass \[0\.1\]",
    ),
    "statistics of samples": (
        lambda: pnc.ClassStatistics(None, X, X, Y),
        "counts must be Tensor, got NoneType; of features and labels, ClassStatistics.from",
    ),
    "table of errors": (
        lambda: pnc.error_table(STATISTICS),
        "comparisons must be Sequence, got ClassStatistics; pass a list of results",
    ),
    "saved comparison": (
        lambda: pnc.save_comparison(STATISTICS, "file"),
        "comparison must be Dataset, got ClassStatistics; compare_layers gives one",
    ),
    "report": (
        lambda: pnc.write_report([STATISTICS], "file"),
        "comparisons must be Dataset, got ClassStatistics; pass a list",
    ),
    "picture of layers": (
        lambda: pnc.plot_layers(STATISTICS),
        nameless("layers", "ClassStatistics"),
    ),
    "picture of a path": (lambda: pnc.plot_path(X), "path must be FlowPath or Cascade, got Tensor"),
    "picture of a comparison": (
        lambda: pnc.plot_comparison(X),
        "comparison must be Dataset or DepthCalibration, got Tensor",
    ),
    "map": (lambda: pnc.plot_map(X), "dataset must be Dataset, got Tensor; sweep gives one"),
    "picture of a spectrum": (lambda: pnc.plot_spectrum(X), "spectrum must be .*, got Tensor"),
    "picture of vicinities": (lambda: pnc.plot_vicinity(X), "vicinity must be SmallVicinity"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", CALLS)
def test_a_wrong_kind_of_argument_is_named(name):
    call, message = CALLS[name]
    with pytest.raises(TypeError, match=message):
        call()


def test_labels_that_are_nan_are_to_be_left_out():
    labels = Y.double()
    labels[::6] = math.nan
    message = "got torch.float64; 4 are NaN, which is no class: leave these samples out, then"
    with pytest.raises(ValueError, match=message):
        pnc.ClassStatistics.from_features(X, labels)
    with pytest.raises(ValueError, match=r"got torch\.float64; convert them first"):
        pnc.ClassStatistics.from_features(X, Y.double())


@pytest.mark.usefixtures("unchecked")
def test_settings_and_times_that_are_masked_are_refused():
    masked = np.ma.masked_array([0.1, 1.0], mask=[False, True])
    two = {"lambda_w": masked, "lambda_h": [0.1, 0.1], "beta": [1.0, 1.0]}
    with pytest.raises(ValueError, match="lambda_w must not be masked, got 1 masked entries; drop"):
        pnc.minimize_batch(STATISTICS, **two)
    with pytest.raises(ValueError, match="times must not be masked, got 1 masked entries; drop"):
        pnc.central_path_flow(STATISTICS, lambda_w=0.1, lambda_h=0.1, times=masked)


PATHS = {
    "save_layers": (lambda path: pnc.save_layers({"a": STATISTICS}, path), "path"),
    "load_layers": (pnc.load_layers, "path"),
    "load_samples": (load_samples, "path"),
    "load_joint": (pnc.measure.load_joint, "path"),
    "FlowPath.load": (FlowPath.load, "path"),
    "load_comparison": (pnc.load_comparison, "path"),
    "open_sweep": (open_sweep, "path"),
    "read_epochs": (read_epochs, "path"),
    "monitor": (lambda path: pnc.CollapseMonitor(MODEL, LOADER, path=path), "path"),
    "checkpoints": (
        lambda path: pnc.measure.measure_checkpoints(MODEL, LOADER, path),
        "folder",
    ),
    "sweep": (
        lambda path: pnc.sweep(STATISTICS, lambda_w=[0.1], lambda_h=[0.1], beta=[1], store=path),
        "store",
    ),
    "data": (lambda path: pnc.networks.load_dataset("mnist", data_dir=path), "data_dir"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("value", [X, 3, b"run/a.npz"])
def test_what_is_no_path_is_named(name, value):
    call, argument = PATHS[name]
    kind = type(value).__name__
    with pytest.raises(TypeError, match=rf"^{argument} must be str or PathLike, got {kind}; give"):
        call(value)

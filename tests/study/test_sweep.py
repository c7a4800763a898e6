"""Sweeps: each cell is the single solve, and no interruption shows in the result."""

import multiprocessing
import random
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import xarray as xr
from problems import near_collapse, random_problem
from sweeps import CONVERGED, GRID, NEAR

import perturb_nc as pnc
from perturb_nc.study import models
from perturb_nc.study import sweep as sweep_module
from perturb_nc.study.sweep_plan import DERIVED, FLOW_METRICS, METRICS, STATUSES
from perturb_nc.study.sweep_store import open_sweep


def minimum(statistics, bias=False, **setting):
    return pnc.minimize(pnc.NearCollapseProblem(statistics, **setting, bias=bias))


@pytest.mark.parametrize("bias", [False, True])
def test_a_cell_is_the_single_solve(statistics, bias):
    dataset = pnc.sweep(statistics, **GRID, bias=bias, chunk=4)
    assert dict(dataset["nc1"].sizes) == {name: len(values) for name, values in GRID.items()}
    assert (dataset["status"] == CONVERGED).all()
    assert (dataset["gradient_norm"] <= 1e-10).all()
    cells = dataset.stack(setting=list(GRID))
    for i in random.Random(0).sample(range(18), 6):
        cell = cells.isel(setting=i)
        setting = {name: float(cell[name]) for name in GRID}
        single = minimum(statistics, bias, **setting)
        expected = pnc.collapse_metrics(single.statistics, single.weight).as_dict()
        expected |= {"objective": single.objective}
        expected |= {"spectral_ratio": single.certificate.spectral_ratio}
        for name, value in expected.items():
            assert float(cell[name]) == pytest.approx(value, rel=1e-8, abs=1e-8, nan_ok=True), name
        assert bool(cell["is_global"]) == single.certificate.is_global
        if cell["spectral_ratio"] <= 1:
            assert cell["gap"] <= 1e-9 * single.objective
        values = torch.linalg.svdvals(single.weight)
        np.testing.assert_allclose(cell["singular_values"], values, rtol=0, atol=1e-8)


def test_derivatives_are_central_differences(statistics, grid):
    at, step = {"lambda_w": 1e-2, "lambda_h": 0.1, "beta": 1.0}, 1e-4
    shifts = [{**at, name: at[name] * np.exp(s)} for name in at for s in (step, -step)]
    zipped = {name: [shift[name] for shift in shifts] for name in at}
    moved = pnc.sweep(statistics, **zipped, zipped=True, tol=1e-13)
    found = grid.sel(at)
    for name in DERIVED:
        values = moved[name].values.reshape(3, 2)
        expected = (values[:, 0] - values[:, 1]) / (2 * step)
        np.testing.assert_allclose(found[f"{name}_derivative"], expected, rtol=1e-5)
        assert (abs(expected) > 1e-6).all()


@pytest.mark.parametrize("zipped", [False, True])
def test_flows_are_central_path_flows(statistics, zipped):
    times = [0.0, 0.5, 4.0]
    axes = {"lambda_w": [0.05, 0.2], "lambda_h": [0.0, 0.1], "beta": [1.0, 2.0]}
    dataset = pnc.sweep(statistics, **axes, zipped=zipped, flow_times=times, chunk=1)
    own = ("setting",) if zipped else ("lambda_w", "lambda_h")
    assert dataset["flow_nc1"].dims == (*own, "flow_time")
    assert (dataset["flow_status"] == 1).all()
    w, h = 0.2, 0.1
    cell = dataset.isel(setting=1) if zipped else dataset.sel(lambda_w=w, lambda_h=h)
    path = pnc.central_path_flow(statistics, lambda_w=w, lambda_h=h, times=times)
    for name in FLOW_METRICS:
        expected = [getattr(metrics, name) for metrics in path.metrics]
        np.testing.assert_allclose(cell[f"flow_{name}"], expected, rtol=1e-6, atol=1e-12)


def test_the_unanchored_model_is_a_cell_like_any_other(statistics):
    dataset = pnc.sweep(statistics, lambda_w=[0.5, 4.0], lambda_h=0.5, beta=[0.0, 1.0])
    assert (dataset["status"] == CONVERGED).all()
    free = dataset.sel(beta=0.0)
    assert free["nc1"].sel(lambda_w=0.5) == 0
    assert (
        float(free["singular_values"].sel(lambda_w=4.0).max()) == 0
    )  # λ_W λ_H >= 1: collapse to 0
    assert free["nc1_derivative"].isnull().all()
    assert dataset["nc1_derivative"].sel(beta=1.0).notnull().all()


def test_a_setting_that_fails_is_a_cell_that_says_so(statistics, grid, monkeypatch):
    solve = models.minimize_batch

    def fails_somewhere(statistics, **settings):
        if (1e-2, 1.0) in zip(settings["lambda_w"], settings["beta"], strict=True):
            raise ValueError("too badly scaled here")
        return solve(statistics, **settings)

    monkeypatch.setattr(models, "minimize_batch", fails_somewhere)
    dataset = pnc.sweep(statistics, **GRID)
    failed = (grid["lambda_w"] == 1e-2) & (grid["lambda_h"] > 0) & (grid["beta"] == 1.0)
    np.testing.assert_array_equal(dataset["status"] == STATUSES.index("failed"), failed)
    for name in (*METRICS, "objective", "gap", "nc1_derivative", "singular_values"):
        assert dataset[name].where(failed, drop=True).isnull().all()
        kept, expected = dataset[name].where(~failed), grid[name].where(~failed)
        np.testing.assert_allclose(kept, expected, rtol=1e-8, atol=1e-8)
    with pytest.raises(ValueError, match="too badly scaled here"):
        pnc.sweep(statistics, lambda_w=[1e-2], lambda_h=[0.1, 0.2], beta=1.0)


def test_a_setting_that_does_not_converge_says_so(statistics):
    dataset = pnc.sweep(statistics, lambda_w=0.1, lambda_h=0.1, beta=[1.0], tol=1e-30)
    assert dataset["status"].item() == STATUSES.index("stalled")
    assert dataset["nc1"].item() > 0


def test_threads_give_the_same_dataset(statistics, grid):
    with ThreadPoolExecutor(2) as executor:
        found = pnc.sweep(statistics, **GRID, chunk=4, executor=executor)
    xr.testing.assert_allclose(found, grid, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_processes_give_the_same_dataset(statistics, tmp_path):
    here = pnc.sweep(statistics, **GRID, chunk=6, store=tmp_path / "here.zarr")
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        found = pnc.sweep(statistics, **GRID, chunk=6, executor=executor, store=tmp_path / "p.zarr")
    xr.testing.assert_allclose(found, here, rtol=1e-8, atol=1e-8)


def test_an_error_in_a_worker_stops_the_rest(statistics, tmp_path):
    class Failing(ThreadPoolExecutor):
        submitted: list[Future] = []  # noqa: RUF012

        def submit(self, *arguments):
            future = Future()
            if not self.submitted:
                future.set_exception(RuntimeError("the worker died"))
            self.submitted.append(future)
            return future

    with pytest.raises(RuntimeError, match="the worker died"):
        pnc.sweep(statistics, **GRID, chunk=6, executor=Failing(1))
    assert [future.cancelled() for future in Failing.submitted] == [False, True, True]


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_dataset(statistics, tmp_path):
    distributed = pytest.importorskip("distributed")
    here = pnc.sweep(statistics, **GRID, chunk=6)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as c,
        distributed.Client(c) as client,
    ):
        store = tmp_path / "sweep.zarr"
        found = pnc.sweep(statistics, **GRID, chunk=6, executor=client.get_executor(), store=store)
    xr.testing.assert_allclose(found, here, rtol=1e-8, atol=1e-8)
    xr.testing.assert_identical(open_sweep(store), found)


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor], ids=["here", "threads"])
def test_near_collapse_a_cell_is_the_closed_form(executor):
    statistics, *_ = near_collapse(1e-3)
    with executor(2) if executor else nullcontext() as pool:
        dataset = pnc.sweep(statistics, **NEAR, method="vicinity", chunk=5, executor=pool)
    names = np.array(STATUSES)[dataset["status"].values]
    assert (names[2] == "vanished").all()
    assert (names[1, 1] == "near_collapse").all()  # the λ_W and λ_H that it is near collapse for
    assert (names[0] == "not_small").all()
    metrics = ("nc1", "nc1_trace", "nc2_etf")
    for name in metrics:
        assert dataset[name].isel(lambda_w=2).isnull().all()
        assert dataset[name].isel(lambda_w=slice(2)).notnull().all()
    setting = {"lambda_w": 0.3, "lambda_h": 0.2, "beta": 2.0}
    cell, single = dataset.sel(setting), pnc.small_vicinity_batch(statistics, **setting)
    for name in metrics:
        assert float(cell[name]) == pytest.approx(single.metrics[name].item(), rel=1e-13)
        expected = [single.derivatives[name][parameter].item() for parameter in setting]
        np.testing.assert_allclose(cell[f"{name}_derivative"], expected, rtol=1e-12)
    assert float(cell["distance"]) == pytest.approx(single.distance.item(), rel=1e-13)
    exact = pnc.sweep(statistics, **setting)
    assert float(cell["nc1"]) == pytest.approx(exact["nc1"].item(), rel=1e-2)
    assert not dataset["is_global"].any()
    assert dataset["cdnv"].isnull().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "near"}, "method must be one of exact, vicinity, got 'near'"),
        ({"lambda_h": [0.0, 1.0]}, "lambda_h must be > 0, got 0.0"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
    ],
)
def test_closed_forms_have_conditions(arguments, message, tmp_path):
    statistics, setting, _ = near_collapse(1e-3)
    arguments = {**setting, "method": "vicinity", **arguments}
    with pytest.raises(ValueError, match=message):
        pnc.sweep(statistics, **arguments, store=tmp_path / "x.zarr")
    narrow = random_problem(seed=0, dim=3).reduced.statistics
    with pytest.raises(ValueError, match="dim >= 4 for a frame"):
        pnc.sweep(narrow, **setting, method="vicinity", store=tmp_path / "x.zarr")


@pytest.mark.parametrize("bias", [False, True])
def test_fewer_dimensions_than_classes(bias):
    narrow = random_problem(seed=3, counts=(4, 5, 3, 6), dim=2).reduced.statistics
    dataset = pnc.sweep(narrow, lambda_w=0.1, lambda_h=0.1, beta=[1.0, 2.0], bias=bias)
    assert dict(dataset["singular_values"].sizes)["singular_value"] == 2
    cell = dataset.sel(lambda_w=0.1, lambda_h=0.1, beta=1.0)
    single = minimum(narrow, bias, lambda_w=0.1, lambda_h=0.1, beta=1.0)
    assert float(cell["objective"]) == pytest.approx(single.objective, rel=1e-10)
    found = torch.linalg.svdvals(single.weight)
    np.testing.assert_allclose(cell["singular_values"], found, rtol=0, atol=1e-8)


def test_a_time_limit_ends_a_sweep_that_a_store_goes_on_with(statistics, grid, tmp_path):
    store = tmp_path / "map.zarr"
    told = []
    short = {**GRID, "store": store, "chunk": 4}
    begun = pnc.sweep(statistics, **short, time_limit=1e-9, progress=lambda *at: told.append(at))
    assert (begun["status"] == STATUSES.index("pending")).all()
    assert begun["nc1"].isnull().all()
    assert told == [(0, 18)]
    xr.testing.assert_allclose(pnc.sweep(statistics, **short)["nc1"], grid["nc1"])


def test_settings_that_the_time_limit_met_are_solved_again(statistics, grid, tmp_path, monkeypatch):
    short = {**GRID, "store": tmp_path / "map.zarr"}
    monkeypatch.setattr(sweep_module.Clock, "left", lambda self: 1e-9)
    told = []
    late = pnc.sweep(statistics, **short, time_limit=60, progress=lambda *at: told.append(at))
    assert (late["status"] == STATUSES.index("time_limit")).any()
    assert late["nc1"].notnull().all()
    assert told[-1][0] == int((late["status"] == CONVERGED).sum())
    monkeypatch.undo()
    again = pnc.sweep(statistics, **short)
    assert (again["status"] == CONVERGED).all()
    xr.testing.assert_allclose(again["nc1"], grid["nc1"])


def test_what_an_executor_has_not_begun_at_the_time_limit_stays_pending(statistics, monkeypatch):
    piece = sweep_module._piece

    def slow(*arguments):
        time.sleep(0.2)
        return piece(*arguments)

    monkeypatch.setattr(sweep_module, "_piece", slow)
    with ThreadPoolExecutor(1) as pool:
        dataset = pnc.sweep(statistics, **GRID, executor=pool, chunk=6, time_limit=0.05)
    assert (dataset["status"] == CONVERGED).any()
    assert (dataset["status"] == STATUSES.index("pending")).any()


def test_a_time_limit_that_is_none_is_refused(statistics):
    with pytest.raises(ValueError, match="time_limit"):
        pnc.sweep(statistics, **GRID, time_limit=0.0)

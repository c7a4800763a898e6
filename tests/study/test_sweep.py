"""Sweeps: each cell is the single solve, and no interruption shows in the result."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from problems import near_collapse, random_problem

import perturb_nc as pnc
from perturb_nc.study import models
from perturb_nc.study import sweep as sweep_module
from perturb_nc.study.sweep_plan import DERIVED, FLOW_METRICS, METRICS, STATUSES
from perturb_nc.study.sweep_store import SweepStore, open_sweep

GRID = {"lambda_w": [1e-3, 1e-2, 0.3], "lambda_h": [1e-3, 0.1], "beta": [0.3, 1.0, 5.0]}
CONVERGED = STATUSES.index("converged")


@pytest.fixture(scope="module")
def statistics():
    return random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics


@pytest.fixture(scope="module")
def grid(statistics):
    return pnc.sweep(statistics, **GRID)


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


def test_zipped_settings_are_cells_of_the_grid(statistics, grid):
    settings = [(1e-3, 0.1, 5.0), (0.3, 1e-3, 0.3), (1e-2, 0.1, 1.0)]
    lists = dict(zip(GRID, zip(*settings, strict=True), strict=True))
    zipped = pnc.sweep(statistics, **lists, zipped=True, chunk=2)
    assert zipped["nc1"].dims == ("setting",)
    for i, setting in enumerate(settings):
        cell, expected = zipped.isel(setting=i), grid.sel(dict(zip(GRID, setting, strict=True)))
        assert tuple(float(cell[name]) for name in GRID) == setting
        for name in (*METRICS, "objective", "singular_values", "nc1_derivative"):
            np.testing.assert_allclose(cell[name], expected[name], rtol=1e-8, atol=1e-8)


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


def test_variables_say_what_they_are(statistics, grid):
    for variable in grid.data_vars.values():
        assert variable.attrs["units"] == "1"
        assert len(variable.attrs["long_name"]) > 5
    assert grid["nc1"].attrs["long_name"].startswith("NC1 = (1/K) tr(Σ_W Σ_B†)")
    flags = grid["status"].attrs
    meanings = dict(zip(flags["flag_values"], flags["flag_meanings"].split(), strict=True))
    assert meanings[CONVERGED] == "converged"
    assert json.loads(grid.attrs["arguments"])["beta"] == GRID["beta"]
    other = pnc.sweep(statistics.moved(statistics.means, 2 * statistics.within), **GRID)
    assert other.attrs["statistics_sha256"] != grid.attrs["statistics_sha256"]


def test_a_store_is_the_dataset_and_is_not_computed_again(statistics, grid, tmp_path, monkeypatch):
    store, calls = tmp_path / "sub" / "sweep.zarr", []
    on_chunk = lambda finished, total: calls.append((finished, total))  # noqa: E731
    first = pnc.sweep(statistics, **GRID, store=store, progress=on_chunk)
    xr.testing.assert_identical(first, grid)
    xr.testing.assert_identical(open_sweep(store), grid)
    assert calls == [(0, 18), (18, 18)]
    assert [path.name for path in store.parent.iterdir()] == ["sweep.zarr"]
    monkeypatch.setattr(models, "minimize_batch", lambda *_, **__: pytest.fail("computed"))
    xr.testing.assert_identical(pnc.sweep(statistics, **GRID, store=store), grid)


def test_a_store_from_before_a_metric_was_added_is_read_but_not_gone_on_with(
    statistics, grid, tmp_path
):
    store = tmp_path / "sweep.zarr"
    grid.drop_vars("discrimination").to_zarr(store, zarr_format=2, consolidated=True)
    assert "discrimination" not in open_sweep(store)
    np.testing.assert_array_equal(open_sweep(store)["nc1"], grid["nc1"])
    with pytest.raises(ValueError, match="was begun before discrimination were measured; read it"):
        pnc.sweep(statistics, **GRID, store=store)


def test_a_store_of_another_sweep_is_refused(statistics, tmp_path):
    arguments = {"lambda_w": [0.1, 0.2], "lambda_h": 0.1, "beta": 1.0}
    store = tmp_path / "sweep.zarr"
    pnc.sweep(statistics, **arguments, store=store)
    changed = {"lambda_w": 0.1, "bias": True, "flow_times": [1.0], "chunk": 3, "tol": 1e-9}
    for name, value in changed.items():
        with pytest.raises(ValueError, match=rf"holds a sweep with other {name}; repeat"):
            pnc.sweep(statistics, **{**arguments, name: value}, store=store)
    other = statistics.moved(2 * statistics.means, statistics.within)
    with pytest.raises(ValueError, match="with other statistics_sha256;"):
        pnc.sweep(other, **arguments, store=store)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match="full is not the store of a sweep"):
        pnc.sweep(statistics, **arguments, store=tmp_path / "full")
    with pytest.raises(FileNotFoundError, match=r"no store at .*absent"):
        open_sweep(tmp_path / "absent")


@pytest.mark.parametrize("seed", range(4))
def test_a_sweep_cut_off_in_any_write_resumes(statistics, tmp_path, monkeypatch, seed):
    arguments = {"lambda_w": [0.01, 0.1, 1.0], "lambda_h": 0.1, "beta": 1.0, "chunk": 1}
    arguments |= {"flow_times": [1.0], "store": tmp_path / "sweep.zarr"}
    whole = pnc.sweep(statistics, **{**arguments, "store": tmp_path / "whole.zarr"})
    write, left = SweepStore.write, random.Random(seed).randrange(1, 3 * len(whole))

    def cut_off(self, region, names):
        nonlocal left
        for name in sorted(names, key=lambda name: name == "status"):
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            write(self, region, [name])

    monkeypatch.setattr(SweepStore, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pnc.sweep(statistics, **arguments)
    monkeypatch.setattr(SweepStore, "write", write)
    finished = int((open_sweep(arguments["store"])["status"] > 0).sum())
    calls = []
    resumed = pnc.sweep(statistics, **arguments, progress=lambda *call: calls.append(call))
    assert calls == [(done, 3) for done in range(finished, 4)]
    xr.testing.assert_identical(resumed, whole)


def test_a_first_write_cut_off_leaves_nothing_half_there(tmp_path, monkeypatch, caplog):
    """The store is made with the first piece, of which it must not know the status before."""
    statistics, *_ = near_collapse(1e-3)
    write, store = SweepStore.write, tmp_path / "sweep.zarr"

    def cut_off(self, region, names):
        write(self, region, ["nc1"])
        raise KeyboardInterrupt

    monkeypatch.setattr(SweepStore, "write", cut_off)
    with pytest.raises(KeyboardInterrupt):
        pnc.sweep(statistics, **NEAR, method="vicinity", chunk=2, store=store)
    assert (open_sweep(store)["status"] == 0).all()
    assert not caplog.text


KILLED = """
import sys, warnings, torch, perturb_nc as pnc
warnings.simplefilter("ignore")
torch.set_num_threads(1)
statistics = pnc.load_layers(sys.argv[1])[""]
pnc.sweep(statistics, lambda_w=torch.logspace(-3, 0, 5), lambda_h=[1e-3, 0.1],
          beta=[0.3, 1.0, 5.0], chunk=3, store=sys.argv[2])
"""


def test_a_killed_sweep_resumes_to_the_identical_dataset(statistics, tmp_path):
    axes = {"lambda_w": torch.logspace(-3, 0, 5), "lambda_h": [1e-3, 0.1], "beta": [0.3, 1.0, 5.0]}
    whole = pnc.sweep(statistics, **axes, chunk=3, store=tmp_path / "whole.zarr")
    pnc.save_layers({"": statistics}, tmp_path / "layer.safetensors")
    store = tmp_path / "killed.zarr"
    command = [sys.executable, "-c", KILLED, str(tmp_path / "layer.safetensors"), str(store)]
    root = os.path.dirname(os.path.dirname(pnc.__file__))
    process = subprocess.Popen(command, cwd=root)
    moment = random.Random()
    chunks = moment.randrange(1, 8)
    while len(list(store.glob("status/[0-9]*"))) < chunks:
        assert process.poll() is None, "the sweep ended before it was killed"
        time.sleep(0.001)
    time.sleep(moment.uniform(0, 0.05))
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    calls = []
    resumed = pnc.sweep(
        statistics, **axes, chunk=3, store=store, progress=lambda *call: calls.append(call)
    )
    assert 3 * chunks <= calls[0][0] < 30  # what was finished is not computed again
    assert [finished for finished, _ in calls] == list(range(calls[0][0], 31, 3))
    xr.testing.assert_identical(resumed, whole)
    xr.testing.assert_identical(open_sweep(store), whole)


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


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lambda_w": [0.1, 0.0]}, "lambda_w must be > 0, got 0.0"),
        ({"lambda_h": [-1.0]}, "lambda_h must be >= 0, got -1.0"),
        ({"beta": [float("nan")]}, "beta must be finite, got nan"),
        ({"beta": []}, "beta must be a number or a non-empty list"),
        ({"beta": "many"}, "beta must be a number or a list of them, got 'many'"),
        ({"beta": [1.0, 1.0]}, "beta must hold distinct values"),
        ({"lambda_h": [0.0, 1.0], "beta": [0.0, 1.0]}, "lambda_h and beta must not both be 0"),
        ({"zipped": True, "beta": [1.0, 2.0]}, "zipped values must be lists of one length"),
        ({"flow_times": [1.0, 0.5]}, "flow_times must increase"),
        ({"chunk": 0}, "chunk must be >= 1, got 0"),
        ({"tol": 0.0}, "tol must be > 0, got 0.0"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(statistics, tmp_path, changed, message):
    arguments = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0, **changed}
    with pytest.raises(ValueError, match=message):
        pnc.sweep(statistics, **arguments, store=tmp_path / "sweep.zarr")
    assert list(tmp_path.iterdir()) == []


NEAR = {"lambda_w": [0.03, 0.3, 12.0], "lambda_h": [0.1, 0.2], "beta": [0.7, 2.0]}


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


def test_a_store_of_one_method_refuses_the_other(tmp_path):
    statistics, *_ = near_collapse(1e-3)
    path = tmp_path / "near.zarr"
    first = pnc.sweep(statistics, **NEAR, method="vicinity", store=path)
    assert json.loads(open_sweep(path).attrs["arguments"])["method"] == "vicinity"
    assert open_sweep(path).attrs["title"].startswith("First-order predictions")
    calls = []
    again = pnc.sweep(
        statistics, **NEAR, method="vicinity", store=path,
        progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert calls == [(12, 12)]
    xr.testing.assert_identical(again, first)
    with pytest.raises(ValueError, match="holds a sweep with other method"):
        pnc.sweep(statistics, **NEAR, store=path)


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


def test_a_sweep_that_fails_leaves_no_store(statistics, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(models, "minimize_batch", fails)
    with pytest.raises(RuntimeError, match="out of luck"):
        pnc.sweep(statistics, **GRID, store=tmp_path / "sweep.zarr")
    assert list(tmp_path.iterdir()) == []


SMALL = {"lambda_w": [0.01, 0.1], "lambda_h": [0.1], "beta": [1.0, 2.0, 3.0], "chunk": 2}
SMALL |= {"flow_times": [1.0]}


@pytest.fixture(scope="module")
def kept(statistics, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "sweep.zarr"
    pnc.sweep(statistics, **SMALL, store=path)
    return path


@pytest.fixture
def store(kept, tmp_path):
    return Path(shutil.copytree(kept, tmp_path / "sweep.zarr"))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "remove"])
@pytest.mark.parametrize("chunk", ["nc1/1.0.0", "status/1.0.0", "flow_nc1/1.0.0"])
def test_damaged_and_missing_chunks_are_pending_again(store, chunk, damage, caplog):
    whole, path = open_sweep(store), store / chunk
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "remove":
            path.unlink()
    found = open_sweep(store)
    np.testing.assert_array_equal(found["status"], [[[1, 1, 1]], [[0, 0, 1]]])
    if (damage, chunk) != ("remove", "status/1.0.0"):  # as if it had never been computed
        assert "2 damaged or missing settings are pending again" in caplog.text
    left = found["status"] != 0
    for name in (*METRICS, "objective", "nc1_derivative"):
        np.testing.assert_array_equal(found[name].where(left), whole[name].where(left))


def test_damaged_chunks_are_computed_again(statistics, store):
    whole, calls = open_sweep(store), []
    (store / "nc1" / "0.0.0").write_bytes(b"")
    (store / "flow_status" / "1.0").unlink()
    again = pnc.sweep(statistics, **SMALL, store=store, progress=lambda *call: calls.append(call))
    assert calls == [(2, 6), (4, 6), (6, 6)]
    xr.testing.assert_identical(again, whole)
    xr.testing.assert_identical(open_sweep(store), whole)


def test_damaged_layouts_are_refused(store):
    for name in (".zmetadata", "nc1/.zarray", "nc1/.zattrs", ".zattrs", "beta/0"):
        content = (store / name).read_bytes()
        at = content.index(b"1") if b"1" in content else len(content) // 2
        (store / name).write_bytes(content[:at] + bytes([content[at] ^ 3]) + content[at + 1 :])
        with pytest.raises(ValueError, match="is not the store of a sweep, or damaged"):
            open_sweep(store)
        (store / name).write_bytes(content)
    open_sweep(store)


def test_stores_without_checksums_are_read_with_a_note(store, tmp_path, caplog):
    caplog.set_level("INFO")
    whole = open_sweep(store)
    assert not caplog.text
    whole.to_zarr(tmp_path / "old.zarr", zarr_format=2, consolidated=True)
    found = open_sweep(tmp_path / "old.zarr")
    xr.testing.assert_identical(found, whole)
    assert "old.zarr was written without a checksum" in caplog.text


def test_two_sweeps_fill_one_store(statistics, tmp_path, monkeypatch):
    """Both find no store; the second joins the first."""
    path, writes = tmp_path / "sweep.zarr", SweepStore.write
    arguments = {"lambda_w": [0.01, 0.1], "lambda_h": 0.1, "beta": 1.0, "chunk": 1, "store": path}

    def after_another(self, region, names):
        monkeypatch.setattr(SweepStore, "write", writes)
        pnc.sweep(statistics, **arguments)
        writes(self, region, names)

    monkeypatch.setattr(SweepStore, "write", after_another)
    xr.testing.assert_identical(pnc.sweep(statistics, **arguments), open_sweep(path))
    assert [entry.name for entry in tmp_path.iterdir()] == ["sweep.zarr"]


def test_stores_of_clouds_are_refused_by_name(statistics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="must be a local file, got s3://bucket/x"):
        pnc.sweep(statistics, **GRID, store="s3://bucket/x")
    with pytest.raises(ValueError, match="must be a local file, got s3://bucket/x"):
        open_sweep("s3://bucket/x")
    assert list(tmp_path.iterdir()) == []


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

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import xarray as xr
from problems import near_collapse
from sweeps import GRID, NEAR

import perturb_nc as pnc
from perturb_nc.study import models
from perturb_nc.study.sweep_store import SweepStore, open_sweep


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


SLOW = [pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3)]


@pytest.mark.parametrize("seed", [0, *SLOW])
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


@pytest.mark.slow
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


def test_a_sweep_that_fails_leaves_no_store(statistics, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(models, "minimize_batch", fails)
    with pytest.raises(RuntimeError, match="out of luck"):
        pnc.sweep(statistics, **GRID, store=tmp_path / "sweep.zarr")
    assert list(tmp_path.iterdir()) == []


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


KILLED = """
import sys, warnings, torch, perturb_nc as pnc
warnings.simplefilter("ignore")
torch.set_num_threads(1)
statistics = pnc.load_layers(sys.argv[1])[""]
pnc.sweep(statistics, lambda_w=torch.logspace(-3, 0, 5), lambda_h=[1e-3, 0.1],
          beta=[0.3, 1.0, 5.0], chunk=3, store=sys.argv[2])
"""

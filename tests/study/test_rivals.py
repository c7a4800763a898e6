"""Rivals against their definitions."""

import math

import numpy as np
import pytest
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study.rivals import RIVALS, Stage, interpolation, shrinkage, stages, unchanged


@pytest.fixture(scope="module")
def stage():
    shapes = {"dim": 6, "num_classes": 3}
    layers = {
        name: random_problem(seed=i, **shapes).reduced.statistics for i, name in enumerate("abcd")
    }
    return Stage(layers, "nc1_trace")


def test_a_stage_measures_its_layers(stage):
    assert stage.names == ["a", "b", "c", "d"]
    for name, statistics in stage.layers.items():
        metrics = pnc.collapse_metrics(statistics)
        assert stage.value(name) == metrics.nc1_trace
        assert stage.measured[name].nc1 == metrics.nc1
        assert np.nansum(stage.spectra[name][0]) == pytest.approx(metrics.nc1_trace)


def test_stages_are_runs_of_one_width(stage):
    wide = random_problem(seed=9, dim=7, num_classes=3).reduced.statistics
    runs = stages({**stage.layers, "wide": wide, "again": stage.layers["a"]}, "nc1")
    assert [run.names for run in runs] == [["a", "b", "c", "d"], ["wide"], ["again"]]
    assert [run.is_alone for run in runs] == [False, True, True]
    assert {run.metric for run in runs} == {"nc1"}


def test_every_rival_predicts_every_later_layer(stage):
    for rival in RIVALS.values():
        found = rival(stage)
        assert list(found.metrics) == list(found.spectra) == ["b", "c", "d"]


def test_shrinkage_moves_the_variability_alone(stage):
    found, a = shrinkage(stage), stage.measured["a"]
    assert not found.given
    for name in ("b", "c", "d"):
        share = stage.value(name) / a.nc1_trace
        assert found.metrics[name].nc1_trace == pytest.approx(stage.value(name))
        assert found.metrics[name].nc1 == pytest.approx(share * a.nc1)
        assert found.metrics[name].nc2_etf == pytest.approx(a.nc2_etf)
        assert found.spectra[name][0, :6] == pytest.approx(share * stage.spectra["a"][0, :6])


def test_interpolation_is_linear_in_the_log(stage):
    found = interpolation(stage)
    assert found.given == {"d"}
    assert not found.statistics
    first, last = stage.measured["a"], stage.measured["d"]
    assert found.metrics["b"].nc1 == pytest.approx(first.nc1 ** (2 / 3) * last.nc1 ** (1 / 3))
    assert found.metrics["d"].nc2_etf == pytest.approx(last.nc2_etf)
    ends = stage.spectra["a"][0, :6] ** (1 / 3) * stage.spectra["d"][0, :6] ** (2 / 3)
    assert found.spectra["c"][0, :6] == pytest.approx(ends)
    assert np.isnan(found.spectra["c"][0, 6:]).all()


def test_unchanged_is_the_layer_before(stage):
    found = unchanged(stage)
    assert found.metrics["c"] is stage.measured["b"]
    assert found.statistics["d"] is stage.layers["c"]


def test_errors_are_log_ratios(stage):
    found = unchanged(stage).errors(stage, "nc1")
    expected = abs(math.log(stage.measured["a"].nc1 / stage.measured["b"].nc1))
    assert found["b"] == pytest.approx(expected)
    assert list(found) == ["b", "c", "d"]
    # Two classes have one angle, which is exact, and no ratio.
    two = {n: random_problem(seed=i, num_classes=2).reduced.statistics for i, n in enumerate("ab")}
    pair = Stage(two, "nc1")
    assert math.isnan(unchanged(pair).errors(pair, "nc2_equiangular")["b"])

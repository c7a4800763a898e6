import dataclasses
import math

import pytest
import torch
from problems import statistics_of

import perturb_nc as pnc
from perturb_nc import metrics
from perturb_nc.theory.collapse import simplex_etf


def test_without_separation_nothing_is_collapsed():
    means = torch.ones(3, 4, dtype=torch.float64)
    noisy = pnc.collapse_metrics(statistics_of(means, torch.eye(4, dtype=torch.float64)))
    assert noisy.nc1 == noisy.nc1_trace == noisy.cdnv == math.inf
    assert noisy.within_share == 1.0
    still = pnc.collapse_metrics(statistics_of(means))
    assert all(math.isnan(v) for v in (still.nc1, still.nc1_trace, still.cdnv, still.nc2_etf))


def test_invariant_under_rotation_and_relabelling(generic):
    features, labels, s = generic
    weight = torch.randn(5, 9, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = pnc.ClassStatistics.from_features(2.5 * features @ q.mT, order[labels])
    before = pnc.collapse_metrics(s, weight).as_dict()
    after = pnc.collapse_metrics(moved, weight[order.argsort()] @ q.mT).as_dict()
    assert before == pytest.approx(after, rel=1e-11)


def test_record_names_every_metric_and_prints_a_table(generic):
    _, _, s = generic
    record = pnc.collapse_metrics(s)
    assert math.isnan(record.nc3_duality)
    values = record.as_dict()
    assert list(values) == [f.name for f in dataclasses.fields(record)]
    for name, value in values.items():
        if name != "dnc1" and not math.isnan(value):
            assert getattr(metrics, name)(s).item() == value
    assert record.dnc1 == record.nc1_trace
    lines = str(record).splitlines()
    assert len(lines) == len(values)
    assert lines[0].split() == ["nc1_trace", f"{record.nc1_trace:.6g}"]


def test_weight_of_the_wrong_shape_is_named(generic):
    _, _, s = generic
    with pytest.raises(ValueError, match=r"weight must have shape \('any', 9\), got \(5, 8\)"):
        pnc.collapse_metrics(s, torch.randn(5, 8))
    with pytest.raises(ValueError, match="weight must be real and finite"):
        pnc.collapse_metrics(s, torch.full((5, 9), torch.nan))


def test_collapse_depth_is_the_first_layer_below_the_threshold():
    within = torch.eye(11, dtype=torch.float64)
    layers = {
        name: statistics_of(simplex_etf(6, 11), within * 2 * cdnv / 11)
        for name, cdnv in [("a", 0.9), ("b", 0.21), ("c", 0.19), ("d", 0.3)]
    }
    assert metrics.collapse_depth(layers) == "c"
    assert metrics.collapse_depth(layers, threshold=0.1) is None

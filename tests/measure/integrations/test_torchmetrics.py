"""The metric for torchmetrics, with torchmetrics."""

import pytest
import torch
from problems import random_problem

import perturb_nc as pnc

torchmetrics = pytest.importorskip("torchmetrics", reason="needs torchmetrics")
CollapseMetric = pytest.importorskip("perturb_nc.measure.integrations.torchmetrics").CollapseMetric


@pytest.fixture
def samples():
    dense = random_problem(seed=1, counts=(20, 30, 25), dim=6)
    return 1e4 + dense.reference.mT, dense.labels


def test_batches_give_the_statistics_of_all(samples):
    features, labels = samples
    whole = pnc.ClassStatistics.from_features(features, labels)
    metric = CollapseMetric(3, 6)
    for rows in torch.arange(75).split(20):
        metric.update(features[rows], labels[rows])
    found = metric.compute()
    expected = pnc.collapse_metrics(whole)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(
        {name: getattr(expected, name) for name in ("nc1", "nc1_trace", "nc2_etf", "cdnv")}
    )
    torch.testing.assert_close(metric.statistics().within, whole.within)
    assert set(CollapseMetric(3, 6, names=None)(features, labels)) == set(expected.as_dict())
    metric.reset()
    assert not metric.counts.any()
    with pytest.raises(ValueError, match="class"):
        metric.statistics()


def test_processes_are_merged_as_a_sync_stacks_them(samples):
    """`dist_reduce_fx=None` gives every state with a first dimension of processes."""
    features, labels = samples
    metric, parts = CollapseMetric(3, 6), [torch.arange(0, 40), torch.arange(40, 75)]
    gathered = []
    for rows in parts:
        metric.reset()
        metric.update(features[rows], labels[rows])
        gathered.append({name: getattr(metric, name) for name in metric._defaults})

    def gather(state, group=None):
        name = next(n for n in gathered[1] if gathered[1][n] is state)
        return [part[name] for part in gathered]

    metric.dist_sync_fn = gather
    metric.sync(dist_sync_fn=gather, distributed_available=lambda: True)
    whole = pnc.ClassStatistics.from_features(features, labels)
    torch.testing.assert_close(metric.statistics().within, whole.within)
    metric.unsync()
    assert int(metric.counts.sum()) == 35


def test_it_moves_and_joins_collections(samples):
    features, labels = samples
    together = torchmetrics.MetricCollection({"collapse": CollapseMetric(3, 6)})
    together.update(features, labels)
    found = together.compute()
    assert float(found["nc1"]) == pytest.approx(
        pnc.collapse_metrics(pnc.ClassStatistics.from_features(features, labels)).nc1
    )

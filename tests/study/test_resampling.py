import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc.study.quantities import QUANTITIES
from perturb_nc.study.resampling import bootstrap_intervals


def samples(n, seed, dim=6, num_classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % num_classes
    means = 3 * torch.eye(dim, dtype=torch.float64)[:num_classes]
    return means[labels] + torch.randn(n, dim, generator=generator, dtype=torch.float64), labels


@pytest.mark.slow
def test_the_interval_holds_the_true_value_as_often_as_it_says():
    # ÑC1 of the population: tr Σ_W = 6; means 3e_k, so tr Σ_B = 9 (K-1)/K = 6.
    n, held = 600, 0
    for seed in range(60):
        features, labels = samples(n, seed)
        found = bootstrap_intervals({"a": features}, labels, replicates=80, level=0.9, seed=seed)
        low, high = found.sel(layer="a", quantity="nc1_trace").values
        held += low < 1.0 < high
    assert 46 <= held <= 60  # 54 expected; 46 is 3.4 standard deviations below


def test_the_width_shrinks_as_one_over_the_root_of_n():
    widths = []
    for n in (300, 4800):
        features, labels = samples(n, 0)
        found = bootstrap_intervals({"a": features}, labels, replicates=120)
        widths.append(np.diff(found.sel(quantity="nc1_trace").values, axis=0).item())
    assert widths[0] / widths[1] == pytest.approx(4.0, rel=0.3)


def test_layers_share_their_resamples_and_classes_keep_their_sizes():
    features, labels = samples(90, 1)
    labels = labels[: len(labels)].clone()
    labels[:10] = 0
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    both = {"a": features, "turned": 2 * features @ turn}
    found = bootstrap_intervals(both, labels, replicates=20)
    assert found.dims == ("bound", "layer", "quantity")
    assert found["quantity"].values.tolist() == list(QUANTITIES)
    np.testing.assert_allclose(found.sel(layer="a"), found.sel(layer="turned"), rtol=1e-9)
    again = bootstrap_intervals({"a": features}, labels, replicates=20)
    np.testing.assert_array_equal(again.sel(layer="a"), found.sel(layer="a"))
    # One sample a class: every resample is the same, so the interval is a point.
    single = torch.arange(3)
    alone = bootstrap_intervals({"a": features[:3]}, single, replicates=5)
    own = pnc.collapse_metrics(pnc.ClassStatistics.from_features(features[:3], single))
    np.testing.assert_allclose(alone.sel(quantity="nc2_etf").values.ravel(), own.nc2_etf)


def test_progress_is_told():
    features, labels = samples(30, 2)
    seen = []
    bootstrap_intervals({"a": features}, labels, replicates=3, on_replicate=seen.append)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 1.0}, "level must lie between 0 and 1"),
        ({"replicates": 1}, "replicates must be >= 2"),
        ({"features": {}}, "features must hold at least one layer"),
        ({"features": {"a": torch.zeros(4, 2), "b": torch.zeros(5, 2)}}, "one number of samples"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels"),
    ],
)
def test_bad_arguments_are_named(changes, message):
    arguments = {"features": {"a": torch.zeros(4, 2)}, "labels": torch.tensor([0, 0, 1, 1])}
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(**{**arguments, **changes})

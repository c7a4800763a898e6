import math
import re

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.metrics.table import READ_BY_WEIGHT, collapse_metrics
from perturb_nc.span_statistics import MeansBuilder, SpanBuilder, SpanStatistics
from perturb_nc.statistics import ClassStatistics


def sample(n=120, d=30, k=4, offset=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, k, (n,), generator=generator)
    labels[:k] = torch.arange(k)
    shape = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    means = torch.randn(k, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64) @ shape
    return means[labels] + noise + offset, labels


def assert_same_metrics(features, labels, rel=1e-10):
    full = collapse_metrics(ClassStatistics.from_features(features, labels)).as_dict()
    span = collapse_metrics(SpanStatistics.from_features(features, labels)).as_dict()
    for name, value in full.items():
        if name == "dnc2":  # infinite for dependent means
            assert 1 / span[name] == pytest.approx(1 / value, rel=rel, abs=1e-13)
        elif name not in READ_BY_WEIGHT:
            assert span[name] == pytest.approx(value, rel=rel, abs=1e-13), name


@pytest.mark.parametrize("d", [2, 3, 4, 5, 30])
def test_every_metric_of_the_features_is_that_of_the_full_statistics(d):
    features, labels = sample(d=d)
    assert_same_metrics(features, labels)
    assert SpanStatistics.from_features(features, labels).dim == (d if d <= 4 else 5)


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_common_offset_does_no_harm(offset):
    assert_same_metrics(*sample(offset=offset), rel=1e-9 * offset)


def test_dependent_class_means_are_no_obstacle():
    features, labels = sample()
    features[labels == 3] += (2 * features[labels == 0].mean(0)) - features[labels == 3].mean(0)
    assert_same_metrics(features, labels)


def test_collapsed_features_have_no_variability():
    features, labels = sample()
    statistics = ClassStatistics.from_features(features, labels)
    assert (
        collapse_metrics(SpanStatistics.from_features(statistics.means[labels], labels)).nc1 < 1e-25
    )


def test_a_component_off_the_span_moves_the_trace_and_not_nc1():
    features, labels = sample(d=10, k=3)
    wide = torch.cat([features, torch.zeros(120, 1, dtype=torch.float64)], dim=1)
    for k in range(3):  # a new direction without means
        rows = (labels == k).nonzero().flatten()
        rows = rows[: len(rows) // 2 * 2]
        wide[rows, 10] = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(rows) // 2)
    before, after = (
        collapse_metrics(SpanStatistics.from_features(x, labels)) for x in (features, wide)
    )
    assert after.nc1 == pytest.approx(before.nc1, rel=1e-10)
    assert after.nc1_trace > 1.01 * before.nc1_trace


def test_batches_in_any_order_and_classes_that_come_late():
    features, labels = sample()
    order = labels.argsort()
    first = MeansBuilder()
    for rows in order.split(17):
        first.update(features[rows], labels[rows])
    counts, means = first.result()
    second = SpanBuilder(counts, means)
    for rows in torch.randperm(120).split(31):
        second.update(features[rows], labels[rows])
    found, wanted = second.result(), SpanStatistics.from_features(features, labels)
    for name in ("means", "within", "class_variance"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name))


def test_other_samples_in_the_second_pass_are_refused():
    features, labels = sample()
    first = MeansBuilder(4)
    first.update(features, labels)
    second = SpanBuilder(*first.result())
    second.update(features[1:], labels[1:])
    with pytest.raises(ValueError, match=r"the second pass had .* give the same samples twice"):
        second.result()
    with pytest.raises(ValueError, match=r"classes \[4\] of 5 have none"):
        SpanStatistics.from_features(features, labels, 5)


def test_wide_features_need_no_square_matrix():
    d = 300_000  # its covariance would take 720 GB
    labels = torch.arange(12) % 3
    features = torch.randn(12, d)
    statistics = SpanStatistics.from_features(features, labels)
    x = features.double()
    means = torch.stack([x[labels == k].mean(0) for k in range(3)])
    within = (x - means[labels]).square().sum() / 12
    between = (means - means.mean(0)).square().sum() / 3
    metrics = collapse_metrics(statistics)
    assert metrics.nc1_trace == pytest.approx((within / between).item(), rel=1e-10)
    assert math.isfinite(metrics.nc1)


@pytest.mark.usefixtures("unchecked")
def test_what_needs_the_whole_covariance_refuses_by_name():
    features, labels = sample(d=3)
    span, full = (
        SpanStatistics.from_features(features, labels),
        ClassStatistics.from_features(features, labels),
    )
    options = {"lambda_w": 0.05, "lambda_h": 0.01}
    doors = {
        "statistics": [
            lambda: pnc.NearCollapseProblem(span, **options, beta=1.0),
            lambda: pnc.minimize_batch(span, lambda_w=[1.0], lambda_h=[1.0], beta=[1.0]),
            lambda: pnc.central_path_flow(span, **options, times=[1.0]),
            lambda: pnc.cascade(span, **options, betas=[1.0]),
            lambda: pnc.sweep(span, lambda_w=[0.1], lambda_h=[0.1], beta=[1.0]),
            lambda: pnc.calibrate_depth({"a": span, "b": span}, lambda_h=0.01),
            lambda: pnc.align(span, full),
        ],
        "reference": [lambda: pnc.fit_regularization(span, full)],
        "observed": [lambda: pnc.fit_regularization(full, span)],
        "layer 'b'": [lambda: pnc.compare_layers({"a": full, "b": span}, name="x")],
        "to": [lambda: pnc.align(full, span)],
    }
    for name, calls in doors.items():
        message = f"{re.escape(name)} must be ClassStatistics .*, got SpanStatistics; collect with"
        for call in calls:
            with pytest.raises(TypeError, match=message):
                call()


def test_a_weight_is_refused_even_where_its_shape_fits():
    features, labels = sample(d=3)  # three coordinates, but turned
    with pytest.raises(ValueError, match="weight must be None for SpanStatistics"):
        collapse_metrics(SpanStatistics.from_features(features, labels), torch.eye(4, 3))


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_samples_that_change_between_the_passes_are_refused(offset):
    features, labels = sample(n=4000, offset=offset)
    noise = 0.3 * torch.randn(2, *features.shape, dtype=torch.float64)
    first = MeansBuilder()
    first.update(features + noise[0], labels)
    second = SpanBuilder(*first.result())
    second.update(features + noise[1], labels)
    with pytest.raises(ValueError, match="other samples than the first: the mean of class 0 moved"):
        second.result()
    rounded = SpanBuilder(*first.result())  # as a model in float32 may differ from itself
    again = (features + noise[0]) * (1 + 1e-7 * torch.randn(features.shape))
    rounded.update(again[:7], labels[:7])
    rounded.update(again[7:], labels[7:])
    rounded.result()

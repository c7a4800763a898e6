import numpy as np
import pytest
import torch
from problems import assert_same

import perturb_nc as pnc


def dense_statistics(features, labels, num_classes):
    """Means, Σ_W and class variances with a loop over classes, in float64."""
    x = features.double()
    groups = [x[labels == k] for k in range(num_classes)]
    means = torch.stack([g.mean(0) for g in groups])
    deviations = torch.cat([g - g.mean(0) for g in groups])
    variance = torch.stack([(g - g.mean(0)).square().sum(1).mean() for g in groups])
    return means, deviations.mT @ deviations / len(x), variance


@pytest.fixture
def sample():
    labels = torch.tensor([0] * 7 + [1] * 2 + [2] * 40 + [3])
    return torch.randn(len(labels), 6), labels[torch.randperm(len(labels))]


def test_agrees_with_a_loop_over_classes(sample):
    features, labels = sample
    statistics = pnc.ClassStatistics.from_features(features, labels)
    means, within, variance = dense_statistics(features, labels, 4)
    torch.testing.assert_close(statistics.means, means, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(statistics.within, within, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(statistics.class_variance, variance, rtol=1e-13, atol=1e-14)
    assert statistics.counts.tolist() == [7, 2, 40, 1]


def test_derived_quantities(sample):
    features, labels = sample
    s = pnc.ClassStatistics.from_features(features, labels)
    x = features.double()
    torch.testing.assert_close(s.second_moment, x.mT @ x / len(x), rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(s.priors @ s.class_variance, s.within.trace())
    means = s.means - s.means.mean(0)
    torch.testing.assert_close(s.between, torch.einsum("ki,kj->ij", means, means) / 4)
    assert (s.num_classes, s.dim, s.num_samples) == (4, 6, 50)


def test_merge_is_the_union(sample):
    features, labels = sample
    whole = pnc.ClassStatistics.from_features(features, labels)
    extra = torch.randn(30, 6) + 3
    extra_labels = torch.arange(30) % 4
    other = pnc.ClassStatistics.from_features(extra, extra_labels)
    third = pnc.ClassStatistics.from_features(extra * 2, extra_labels)
    union = pnc.ClassStatistics.from_features(
        torch.cat([features, extra, extra * 2]), torch.cat([labels, extra_labels, extra_labels])
    )
    assert_same(whole.merge(other, third), union)
    assert_same(third.merge(whole).merge(other), union)


def test_rotation_permutation_and_relabelling(sample):
    features, labels = sample
    features = features.double()
    s = pnc.ClassStatistics.from_features(features, labels)
    q = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    rotated = pnc.ClassStatistics.from_features(features @ q.mT, labels)
    torch.testing.assert_close(rotated.within, q @ s.within @ q.mT)
    torch.testing.assert_close(rotated.class_variance, s.class_variance)
    relabel = torch.tensor([2, 0, 3, 1])
    renamed = pnc.ClassStatistics.from_features(features, relabel[labels])
    torch.testing.assert_close(renamed.means[relabel], s.means)
    torch.testing.assert_close(renamed.within, s.within)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (
            [[1.0, float("nan")], [0.0, 1.0]],
            [0, 1],
            r"features must be finite, got nan at \[0, 1\]",
        ),
        ([[1.0, 2.0], [float("inf"), 1.0]], [0, 1], r"got inf at \[1, 0\]"),
        ([1.0, 2.0], [0, 1], r"features must have shape \(N, d\), got \(2,\); flatten"),
        ([[1.0], [2.0]], [0, 1, 1], "labels must have one entry per sample: got 3 for 2"),
        ([[1.0], [2.0]], [0.0, 1.0], "labels must be integers .*; convert them"),
        ([[1.0], [2.0]], [-1, 1], "labels must be >= 0, got -1; drop"),
        ([[1.0], [2.0]], None, "labels must be given: one integer class"),
        ([[1.0], [2.0]], [[1, 2], [0, 1]], r"scores: pass rows.argmax\(1\)"),
        ([[1.0], [2.0]], [[1, 1], [0, 1]], "one class, got 2 in row 0; choose one class"),
        ([[1.0], [2.0]], [[[1]], [[0]]], r"labels must have shape \(N,\), got \(2, 1, 1\)"),
        (np.eye(3), [1, 2, 2], r"classes \[0\] of 3 have none; subtract 1"),
        (np.eye(300), np.arange(300) % 2 * 255, "drop the samples labelled 255"),
        ([[1.0], [2.0], [3.0]], [0, 2, 2], r"classes \[1\] of 3 have none; relabel"),
        ([[1.0], [2.0]], [0, 10**13], "labels must be 0..K-1 .*got 10000000000000 among 2 samples"),
        ([[1.0], [2.0]], [0, 0], "need at least 2 classes, got 1"),
        (np.zeros((0, 3)), [], "features must not be empty"),
        ([[1j], [2.0]], [0, 1], "features must be real, got torch.complex"),
    ],
)
def test_bad_input_is_named(features, labels, message):
    with pytest.raises(ValueError, match=message):
        pnc.ClassStatistics.from_features(features, labels)


def test_labels_beyond_num_classes_and_objects_are_refused():
    with pytest.raises(ValueError, match="labels must be < num_classes = 2, got 2"):
        pnc.ClassStatistics.from_features(np.eye(3), [0, 1, 2], num_classes=2)
    with pytest.raises(ValueError, match="num_classes must be >= 2, got 1"):
        pnc.StatisticsBuilder(1)
    with pytest.raises(TypeError, match="features must be an array of numbers, got str"):
        pnc.ClassStatistics.from_features("features.npz", [0, 1])
    builder = pnc.StatisticsBuilder()
    with pytest.raises(ValueError, match="no batch was added"):
        builder.result()
    builder.update(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="features must have dimension 2, got 3"):
        builder.update(np.eye(3), [0, 1, 1])
    other = pnc.StatisticsBuilder()
    other.update(np.eye(3), [0, 1, 1])
    with pytest.raises(ValueError, match="cannot merge features of dimension 3 into dimension 2"):
        builder.merge(other)


@pytest.mark.parametrize(
    ("within", "message"),
    [
        (torch.zeros(2, 2).double(), r"within must have shape \(3, 3\), got \(2, 2\)"),
        (torch.zeros(3, 3), "within must be float64, got torch.float32"),
        (torch.full((3, 3), torch.nan).double(), "within must be finite"),
        (torch.diag(torch.tensor([1.0, torch.inf, 1.0])).double(), "within must be finite"),
        (-torch.eye(3).double(), "variances in within must be >= 0, got -1"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_constructor_checks_its_fields(within, message):
    zeros = torch.zeros(2, 3).double()
    with pytest.raises(ValueError, match=message):
        pnc.ClassStatistics(torch.tensor([1, 1]), zeros, within, zeros[:, 0])


def test_finite_numbers_of_an_infinite_sum_are_finite():
    zeros = torch.zeros(2, 3).double()
    within = torch.diag(torch.full((3,), 1e308, dtype=torch.float64))
    assert pnc.ClassStatistics(torch.tensor([1, 1]), zeros, within, zeros[:, 0]).dim == 3


def test_a_change_of_the_given_tensors_changes_nothing(sample):
    found = pnc.ClassStatistics.from_features(*sample)
    tensors = [getattr(found, name).clone() for name in ("counts", "means", "within")]
    held = pnc.ClassStatistics(*tensors, found.class_variance)
    before = str(pnc.collapse_metrics(held))
    for tensor in tensors:
        tensor.mul_(3)
    found.class_variance.zero_()
    assert str(pnc.collapse_metrics(held)) == before

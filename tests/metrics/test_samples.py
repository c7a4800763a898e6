import math

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.metrics import samples


@pytest.fixture
def sample():
    labels = torch.arange(300) % 4
    features = torch.randn(300, 5) + 1.5 * torch.randn(4, 5)[labels]
    return features, labels, pnc.ClassStatistics.from_features(features, labels)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_nearest_class_mean_against_distances(sample, offset, monkeypatch):
    features, labels, _ = sample
    monkeypatch.setattr(samples, "_ROWS", 70)
    features = features.double() + offset
    s = pnc.ClassStatistics.from_features(features, labels)
    distances = (features[:, None] - s.means[None]).norm(dim=2)
    expected = distances.argmin(1)
    assert torch.equal(samples.nearest_class_mean(s, features), expected)
    accuracy = (expected == labels).double().mean().item()
    assert 0.3 < accuracy < 1
    assert samples.nc4_accuracy(s, features, labels) == accuracy
    predictions = labels.roll(1)
    expected_mismatch = (expected != predictions).double().mean().item()
    assert samples.nc4_vs_network(s, features, predictions) == expected_mismatch


def test_predictions_are_checked(sample):
    features, labels, s = sample
    with pytest.raises(ValueError, match="predictions must be < num_classes = 4, got 4"):
        samples.nc4_vs_network(s, features, labels + 1)
    with pytest.raises(ValueError, match="features must have dimension 5, got 4"):
        samples.nc4_accuracy(s, features[:, :4], labels)


def test_stable_rank_closed_forms():
    line = torch.randn(10, 1) @ torch.randn(1, 6)  # rank one
    sphere = torch.eye(6)  # six equal singular values
    features = torch.cat([line, sphere, torch.zeros(2, 6)])
    labels = torch.tensor([0] * 10 + [1] * 6 + [3] * 2)
    ranks = samples.stable_rank(features, labels)
    assert ranks[0].item() == pytest.approx(1.0, abs=1e-12)
    assert ranks[1].item() == pytest.approx(6.0, abs=1e-12)
    assert ranks[2:].isnan().all()


def test_effective_depth():
    accuracies = {"a": 0.5, "b": 0.98, "c": 1.0}
    assert samples.effective_depth(accuracies) == "c"
    assert samples.effective_depth(accuracies, epsilon=0.05) == "b"
    assert samples.effective_depth({"a": 0.5}) is None


def test_invariances_of_nc5(sample):
    x, y, s = sample
    outside = torch.randn(40, 5).double() + 2
    found = samples.nc5(s, outside)
    turn = torch.linalg.qr(torch.randn(5, 5).double()).Q
    relabelled = (y + 1) % (int(y.max()) + 1)
    moved = pnc.ClassStatistics.from_features(3 * x.double() @ turn, relabelled)
    assert samples.nc5(moved, 0.5 * outside @ turn) == pytest.approx(found, rel=1e-10)
    # Of uncentred means: a shift of all features counts, and so does 1 % of one direction.
    assert abs(samples.nc5(s, outside + 1) / found - 1) > 1e-3
    bent = outside * torch.tensor([1.01, 1, 1, 1, 1])
    assert abs(samples.nc5(s, bent) / found - 1) > 1e-6


def test_nc5_of_means_along_and_across_the_classes(sample):
    _, _, s = sample
    outside = torch.randn(40, 5) + 2
    cosines = torch.cosine_similarity(s.means, outside.double().mean(0)[None]).abs()
    assert samples.nc5(s, outside) == pytest.approx(cosines.mean().item(), rel=1e-12)
    frame = pnc.ClassStatistics.from_features(torch.eye(3, 4), [0, 1, 2])
    assert samples.nc5(frame, torch.tensor([[1.0, 1, 1, 0]])) == pytest.approx(3**-0.5)
    across = torch.tensor([[0.0, 0, 0, 2], [1.0, 0, 0, 2], [-1.0, 0, 0, 2]])
    assert samples.nc5(frame, across) == pytest.approx(0.0, abs=1e-15)
    assert math.isnan(samples.nc5(frame, torch.zeros(2, 4)))
    with pytest.raises(ValueError, match="outside must have dimension 4, got 3"):
        samples.nc5(frame, torch.ones(2, 3))

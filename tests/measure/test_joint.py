from dataclasses import replace

import pytest
import torch
from measured_models import K, batched, labelled
from torch import nn

from perturb_nc.layer_files import load_joint, load_layers, load_metadata, save_joint, save_layers
from perturb_nc.measure.extraction import collect_features, collect_statistics
from perturb_nc.measure.joint import joint_statistics
from perturb_nc.statistics import ClassStatistics

X, Y = labelled(6, n=50)
PAIRS = [("0", "2"), ("2", "4"), ("0", "4"), ("2", "2#2")]


def model():
    """Two layers of five features, one called twice; activations that overwrite what they get."""
    torch.manual_seed(1)
    one, again, head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, K)
    return nn.Sequential(one, nn.ReLU(inplace=True), again, again, head).double()


def samples():
    return collect_features(model(), batched(X, Y, 12))[0]


def centred(x):
    return x - torch.stack([x[k == Y].mean(0) for k in range(K)])[Y]


@pytest.fixture
def joint():
    return joint_statistics(model(), batched(X, Y, 12), PAIRS)


def test_the_covariance_between_two_layers_is_that_of_their_samples(joint):
    features = samples()
    assert list(joint) == PAIRS
    for (first, last), found in joint.items():
        wanted = centred(features[first]).mT @ centred(features[last]) / len(Y)
        torch.testing.assert_close(found.cross, wanted, rtol=1e-12, atol=1e-14)
        for name, statistics in ((first, found.first), (last, found.last)):
            direct = ClassStatistics.from_features(features[name], Y)
            for field in ("counts", "means", "within", "class_variance"):
                x, y = getattr(statistics, field), getattr(direct, field)
                torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-14)


def test_points_of_the_straight_line_between_two_layers(joint):
    features, pair = samples(), joint["0", "2"]
    c = pair.cross
    for tau in (0.0, 0.3, 1.0):
        point = (1 - tau) * features["0"] + tau * features["2"]
        wanted = ClassStatistics.from_features(point, Y)
        means = (1 - tau) * pair.first.means + tau * pair.last.means
        within = (1 - tau) ** 2 * pair.first.within + tau * (1 - tau) * (c + c.mT)
        within += tau**2 * pair.last.within
        torch.testing.assert_close(means, wanted.means, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(within, wanted.within, rtol=1e-12, atol=1e-14)


def test_a_layer_with_itself_has_its_own_covariance(joint):
    same = joint_statistics(model(), [(X, Y)], [("0", "0")])["0", "0"]
    torch.testing.assert_close(same.cross, same.first.within, rtol=1e-12, atol=1e-14)


def test_files_keep_pairs_and_notes(joint, tmp_path):
    path = tmp_path / "joint.safetensors"
    save_joint(joint, path, {"network": "small"})
    found = load_joint(path)
    assert list(found) == PAIRS
    for pair, wanted in joint.items():
        assert torch.equal(found[pair].cross, wanted.cross)
        assert torch.equal(found[pair].last.within, wanted.last.within)
    assert load_metadata(path) == {"network": "small"}
    with pytest.raises(ValueError, match="holds no class statistics"):
        load_layers(path)
    save_layers(collect_statistics(model(), [(X, Y)]), path)
    with pytest.raises(ValueError, match="holds no joint statistics; make them with save_joint"):
        load_joint(path)
    with pytest.raises(ValueError, match="at least one pair of layers, got none"):
        save_joint({}, path)


def test_bad_pairs_and_covariances_are_named(joint):
    pair = joint["0", "2"]
    with pytest.raises(ValueError, match="at least one pair"):
        joint_statistics(model(), [(X, Y)], [])
    with pytest.raises(ValueError, match="got 'x'; there are"):
        joint_statistics(model(), [(X, Y)], [("0", "x")])
    with pytest.raises(ValueError, match=r"layers \['0#2'\] never ran"):
        joint_statistics(model(), [(X, Y)], [("0", "0#2")])
    with pytest.raises(ValueError, match=r"must be of the same samples, got \[17, 17, 16\] and"):
        replace(pair, last=ClassStatistics.from_features(X[:30], Y[:30]))
    with pytest.raises(ValueError, match=r"cross must be float64 of shape \(5, 5\), got"):
        replace(pair, cross=pair.cross[:2])
    for bad in (3 * pair.first.within.diag().sqrt().outer(pair.last.within.diag().sqrt()),
                torch.full((5, 5), torch.nan, dtype=torch.float64)):  # fmt: skip
        with pytest.raises(ValueError, match="within the variances of its layers"):
            replace(pair, cross=bad)

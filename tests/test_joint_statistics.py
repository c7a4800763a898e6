import pytest
import torch

import perturb_nc as pnc
from perturb_nc.joint_statistics import JointStatistics


@pytest.fixture
def sample():
    """Two layers of the same samples, the second of another width, and all side by side."""
    labels = torch.arange(30) % 3
    x = torch.randn(30, 4, dtype=torch.float64) + labels[:, None]
    y = torch.tanh(x @ torch.randn(4, 2, dtype=torch.float64))
    return labels, x, y


def of(labels, x, y):
    first, last, both = (
        pnc.ClassStatistics.from_features(f, labels) for f in (x, y, torch.cat([x, y], dim=1))
    )
    return JointStatistics(first, last, both.within[: x.shape[1], x.shape[1] :])


def test_the_cross_covariance_gives_that_of_any_combination(sample):
    labels, x, _ = sample
    y = x.flip(1).square()
    joint = of(labels, x, y)
    mixed = pnc.ClassStatistics.from_features(0.3 * x + 2 * y, labels)
    cross = joint.cross + joint.cross.mT
    expected = 0.09 * joint.first.within + 0.6 * cross + 4 * joint.last.within
    torch.testing.assert_close(mixed.within, expected)


def test_a_change_of_the_given_tensor_changes_nothing(sample):
    joint = of(*sample)
    cross = joint.cross.clone()
    again = JointStatistics(joint.first, joint.last, cross)
    cross.zero_()
    assert again.cross.equal(joint.cross)


def test_layers_of_other_samples_and_impossible_covariances_are_refused(sample):
    labels, x, y = sample
    joint = of(labels, x, y)
    fewer = pnc.ClassStatistics.from_features(y[1:], labels[1:])
    with pytest.raises(ValueError, match="must be of the same samples, got"):
        JointStatistics(joint.first, fewer, joint.cross)
    with pytest.raises(ValueError, match=r"cross must be float64 of shape \(4, 2\), got"):
        JointStatistics(joint.first, joint.last, joint.cross.mT)
    with pytest.raises(ValueError, match="within the variances of its layers"):
        JointStatistics(joint.first, joint.last, 100 * joint.cross)
    with pytest.raises(ValueError, match="cross must be finite"):
        JointStatistics(joint.first, joint.last, torch.full_like(joint.cross, torch.nan))

import pytest
import torch
from problems import random_problem
from scipy.linalg import orthogonal_procrustes

import perturb_nc as pnc
from perturb_nc.study.alignment import align, procrustes_rotation


def rotated(statistics, rotation):
    return pnc.ClassStatistics(
        statistics.counts,
        statistics.means @ rotation.mT,
        rotation @ statistics.within @ rotation.mT,
        statistics.class_variance,
    )


def random_rotation(d):
    return torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q


def misfit(statistics, to):
    return (to.priors @ (statistics.means - to.means).square().sum(1)).item()


def near_identity(d, size=0.1):
    skew = torch.randn(d, d, dtype=torch.float64) * size
    return torch.linalg.matrix_exp(skew - skew.mT)


def test_a_rotation_of_the_means_is_undone():
    own = random_problem(seed=1).reduced.statistics
    found = align(rotated(own, random_rotation(own.dim)), own)
    torch.testing.assert_close(found.means, own.means, rtol=0, atol=1e-12)
    # Outside the span of the means nothing is known: only the part inside comes back.
    span = torch.linalg.qr(own.means.mT).Q
    torch.testing.assert_close(
        span.mT @ found.within @ span, span.mT @ own.within @ span, rtol=0, atol=1e-12
    )


def test_scipy_finds_no_better_rotation_of_other_means():
    own, other = (random_problem(seed=i).reduced.statistics for i in (1, 2))
    root = own.priors.sqrt()[:, None]
    expected, _ = orthogonal_procrustes(root * own.means, root * other.means)
    best = rotated(own, torch.as_tensor(expected).mT)
    assert misfit(align(own, other), other) == pytest.approx(misfit(best, other), rel=1e-12)
    rotation = procrustes_rotation(own, other)
    torch.testing.assert_close(
        rotation @ rotation.mT, torch.eye(own.dim, dtype=torch.float64), rtol=0, atol=1e-12
    )
    for _ in range(5):  # a maximum, not only a stationary point
        nearby = rotated(own, near_identity(own.dim) @ rotation)
        assert misfit(nearby, other) > misfit(best, other)


def test_what_the_means_leave_open_stays_as_near_to_the_identity_as_it_can():
    own = random_problem(seed=3).reduced.statistics
    torch.testing.assert_close(
        procrustes_rotation(own, own), torch.eye(own.dim, dtype=torch.float64), rtol=0, atol=1e-10
    )
    other = random_problem(seed=4).reduced.statistics
    rotation = procrustes_rotation(own, other)
    span = torch.linalg.qr(own.means.mT, mode="complete").Q
    free = span[:, own.num_classes :]
    for _ in range(5):  # turned within the orthogonal complement of the means
        turn = span[:, : own.num_classes] @ span[:, : own.num_classes].mT
        turn = turn + free @ near_identity(free.shape[1]) @ free.mT
        moved = rotated(own, rotation @ turn)
        assert misfit(moved, other) == pytest.approx(misfit(align(own, other), other), rel=1e-10)
        assert (rotation @ turn).trace() < rotation.trace()


def test_metrics_do_not_change():
    own, other = (random_problem(seed=i).reduced.statistics for i in (5, 6))
    before, after = (pnc.collapse_metrics(s).as_dict() for s in (own, align(own, other)))
    assert after == pytest.approx(before, rel=1e-9, nan_ok=True)


def test_layers_of_two_widths_are_refused():
    own = random_problem(seed=1).reduced.statistics
    narrow = pnc.ClassStatistics.from_features(torch.randn(40, 3), torch.arange(40) % 4)
    with pytest.raises(ValueError, match=r"to must have the shape \(K, d\) of statistics"):
        align(own, narrow)

import torch

import perturb_nc as pnc
from perturb_nc.moments import trace


def test_moved_statistics_have_the_given_moments_and_variances_of_their_trace(generic):
    _, _, s = generic
    within = 0.25 * s.within
    moved = s.moved(2 * s.means, within)
    assert type(moved) is pnc.ClassStatistics
    torch.testing.assert_close(moved.means, 2 * s.means)
    torch.testing.assert_close(moved.class_variance, 0.25 * s.class_variance)
    torch.testing.assert_close(moved.priors @ moved.class_variance, within.trace())
    assert moved.counts.equal(s.counts)


def test_between_is_of_the_centred_means_alike(generic):
    _, _, s = generic
    centred = s.means - s.means.mean(0)
    torch.testing.assert_close(s.centered_means, centred)
    torch.testing.assert_close(s.between, centred.mT @ centred / s.num_classes)
    assert (s.num_classes, s.dim) == tuple(s.means.shape)


def test_traces_of_a_batch():
    matrices = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    expected = torch.stack([torch.stack([m.trace() for m in row]) for row in matrices])
    torch.testing.assert_close(trace(matrices), expected)

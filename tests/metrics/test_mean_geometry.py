"""Contrasts, frames and pairs of classes: also as Gram matrices, where there are many."""

import math

import pytest
import torch
from problems import statistics_of

from perturb_nc.metrics import mean_geometry as geometry
from perturb_nc.theory.collapse import orthogonal_frame, simplex_etf


@pytest.mark.parametrize("k", [2, 3, 7])
def test_contrasts_are_a_basis_that_takes_the_mean_off(k):
    s = statistics_of(torch.randn(k, 9, dtype=torch.float64))
    basis = geometry.helmert(s)
    torch.testing.assert_close(basis.mT @ basis, torch.eye(k - 1, dtype=torch.float64))
    torch.testing.assert_close(basis.sum(0), torch.zeros(k - 1, dtype=torch.float64))
    a = geometry.contrasts(s)
    torch.testing.assert_close(a @ a.mT / k, s.between)
    inverse, agree = geometry.pseudo_inverse(a, s)
    torch.testing.assert_close(inverse, torch.linalg.pinv(a))
    assert not agree


def test_means_that_agree_to_rounding_are_said_to():
    means = 1e6 + torch.randn(1, 9, dtype=torch.float64).expand(4, 9)
    s = statistics_of(means.contiguous())
    assert geometry.pseudo_inverse(geometry.contrasts(s), s)[1]


def test_frames_have_their_gram_matrices():
    for frame, gram in ((simplex_etf, geometry.etf_gram), (orthogonal_frame, geometry.frame_gram)):
        s = statistics_of(frame(5, 8))
        product = s.means @ s.means.mT
        torch.testing.assert_close(geometry.unit(product), gram(s))
    etf = statistics_of(simplex_etf(5, 8))
    torch.testing.assert_close(geometry.angle_excess(etf), torch.zeros(10, dtype=torch.float64))
    nearness = torch.full((10,), -math.log(2 * 5 / 4) / 2, dtype=torch.float64)
    torch.testing.assert_close(geometry.log_nearness(etf), nearness)


def test_products_of_pairs_are_those_of_differences():
    left, right = torch.randn(2, 5, 8, dtype=torch.float64)
    pairs = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    expected = torch.stack([(left[i] - left[j]) @ (right[i] - right[j]) for i, j in pairs])
    torch.testing.assert_close(geometry.pair_products(left, right), expected)


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_products_of_many_classes_are_those_of_the_differences(monkeypatch, offset):
    means = torch.randn(150, 12, dtype=torch.float64)
    means[7] = means[3] + 1e-7 * means[5]  # close: its products would cancel
    means[9] = means[8]
    means = (means + offset).requires_grad_()
    within = torch.randn(12, 12, dtype=torch.float64)
    turned = means @ (within @ within.mT)
    found = [geometry.pair_products(means, means), geometry.pair_products(means, turned)]
    slopes = torch.autograd.grad(found[0].add(1).sqrt()[:2000].sum(), means, retain_graph=True)
    assert len(means) > geometry._MANY
    monkeypatch.setattr(geometry, "_MANY", len(means))
    expected = [geometry.pair_products(means, means), geometry.pair_products(means, turned)]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=0.0)
    wanted = torch.autograd.grad(expected[0].add(1).sqrt()[:2000].sum(), means)
    torch.testing.assert_close(slopes, wanted, rtol=1e-9, atol=1e-9)

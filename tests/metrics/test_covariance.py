import dataclasses
import math

import pytest
import torch
from populations import collapsed, sample
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.metrics.covariance import held_out_nc1, span_spectrum, vci
from perturb_nc.metrics.ranks import feature_ranks
from perturb_nc.metrics.within import nc1_span, nc1_trace
from perturb_nc.span_statistics import SpanStatistics


@pytest.mark.parametrize("shape", [{}, {"d": 2}, {"counts": (4, 9), "d": 5}, {"d": 60}])
def test_vci_against_its_definition(shape):
    s = pnc.ClassStatistics.from_features(*sample(**shape))
    pinv = torch.linalg.pinv(s.within + s.between, rtol=1e-11, hermitian=True)
    rank = min(s.dim, s.num_classes - 1)
    expected = 1 - (pinv @ s.between).trace().item() / rank
    assert vci(s) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    if expected > 1e-6:  # with more dimensions than samples every class is told apart
        assert abs(1.01 * expected - vci(s)) > 1e-3 * expected


def test_vci_is_the_misfit_of_linear_regression_on_the_labels():
    x, labels = sample((10, 10, 10), d=4)
    onehot = torch.nn.functional.one_hot(labels).double()
    design = torch.cat([x, torch.ones(30, 1).double()], 1)
    left = onehot - design @ torch.linalg.lstsq(design, onehot).solution
    share = left.square().sum() / (onehot - onehot.mean(0)).square().sum()
    found = vci(pnc.ClassStatistics.from_features(x, labels))
    assert found == pytest.approx(share.item(), rel=1e-12)


def test_vci_under_invertible_maps_and_relabelling():
    x, labels = sample()
    before = vci(pnc.ClassStatistics.from_features(x, labels))
    turn = torch.randn(7, 7).double()
    moved = pnc.ClassStatistics.from_features(x @ turn + 5, torch.tensor([2, 0, 3, 1])[labels])
    assert vci(moved) == pytest.approx(before, rel=1e-9)
    doubled = pnc.ClassStatistics.from_features(torch.cat([x, 3 * x], 1), labels)  # Σ_T singular
    assert vci(doubled) == pytest.approx(before, rel=1e-9)


def test_vci_near_collapse_and_without_separation():
    assert vci(collapsed()) == 0.0
    # Small and isotropic: Σ_B of an ETF with tr Σ_B = 1 has K-1 eigenvalues 1/(K-1).
    s = collapsed()
    unit = s.between.trace().item() / 5
    near = dataclasses.replace(s, within=1e-14 * torch.eye(11, dtype=torch.float64))
    assert vci(near) == pytest.approx(1e-14 / (unit + 1e-14), rel=1e-10)
    agree = dataclasses.replace(near, means=torch.ones(6, 11, dtype=torch.float64))
    assert math.isnan(vci(agree))


@pytest.mark.parametrize("shape", [{}, {"d": 2}, {"counts": (4, 9), "d": 5}])
def test_the_spectrum_in_the_span_against_a_projection(shape):
    x, labels = sample(**shape)
    s = pnc.ClassStatistics.from_features(x, labels)
    rank = min(s.dim, s.num_classes - 1)
    basis = torch.linalg.svd(s.centered_means, full_matrices=False).Vh[:rank]
    dense = torch.linalg.eigvalsh(basis @ s.within @ basis.mT).flip(0) / s.between.trace()
    torch.testing.assert_close(span_spectrum(s), dense, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(span_spectrum(s).sum(), nc1_span(s))
    torch.testing.assert_close(span_spectrum(SpanStatistics.from_features(x, labels)), dense)
    flat = dataclasses.replace(s, means=s.means[:, :1] @ torch.randn(1, s.dim).double())
    assert span_spectrum(flat).count_nonzero() == 1
    agree = dataclasses.replace(s, means=torch.ones_like(s.means))
    assert span_spectrum(agree).isnan().all()


def rotation(d=7):
    return torch.linalg.qr(torch.randn(d, d).double()).Q


def test_invariances_of_the_spectrum_in_the_span():
    x, labels = sample()
    found = span_spectrum(pnc.ClassStatistics.from_features(x, labels))
    order = torch.tensor([2, 0, 3, 1])
    moved = pnc.ClassStatistics.from_features(3 * x @ rotation() + 5, order[labels])
    torch.testing.assert_close(span_spectrum(moved), found, rtol=1e-9, atol=0)
    # Directions that only vary within classes do not count; those of the means do.
    noise = torch.randn(len(x), 2).double()
    noise -= torch.stack([noise[labels == k].mean(0) for k in range(4)])[labels]
    wide = pnc.ClassStatistics.from_features(torch.cat([x, noise], 1), labels)
    torch.testing.assert_close(span_spectrum(wide), found, rtol=1e-9, atol=0)
    bent = x.clone()
    bent[:, 0] *= 1.01
    ratio = span_spectrum(pnc.ClassStatistics.from_features(bent, labels)) / found
    assert (ratio - 1).abs().max() > 1e-4


def test_invariances_of_held_out_nc1():
    x, labels = sample()
    z, other = sample((3, 4, 2, 6), seed=1)
    order, turn = torch.tensor([2, 0, 3, 1]), 3 * rotation()

    def both(scale=1.0):
        found = [(scale * x @ turn + 5, order[labels]), (scale * z @ turn + 5, order[other])]
        return [pnc.ClassStatistics.from_features(*of) for of in found]

    train, test = (pnc.ClassStatistics.from_features(*of) for of in ((x, labels), (z, other)))
    found = held_out_nc1(train, test)
    assert held_out_nc1(*both()) == pytest.approx(found, rel=1e-10)
    assert held_out_nc1(*both(0.2)) == pytest.approx(found, rel=1e-10)
    bent = pnc.ClassStatistics.from_features(1.01 * z, other)
    assert abs(held_out_nc1(train, bent) / found - 1) > 1e-3


def test_held_out_nc1_against_a_loop():
    x, labels = sample()
    z, other = sample((3, 4, 2, 6), seed=1)
    train, test = (pnc.ClassStatistics.from_features(*of) for of in ((x, labels), (z, other)))
    scatter = (z - train.means[other]).square().sum(1).mean()
    expected = (scatter / train.between.trace()).item()
    assert held_out_nc1(train, test) == pytest.approx(expected, rel=1e-12)
    assert held_out_nc1(train, train) == pytest.approx(nc1_trace(train).item(), rel=1e-12)
    with pytest.raises(ValueError, match="same classes and dimension, got 4 of 7 and 4 of 6"):
        held_out_nc1(train, pnc.ClassStatistics.from_features(z[:, :6], other))
    agree = dataclasses.replace(train, means=torch.ones_like(train.means))
    assert held_out_nc1(agree, test) == math.inf


def test_what_needs_the_whole_covariance_says_so(unchecked):
    span = SpanStatistics.from_features(*sample())
    for metric in (vci, feature_ranks):
        with pytest.raises(
            TypeError, match="statistics must be ClassStatistics with the whole Σ_W"
        ):
            metric(span)


def test_one_sample_a_class_and_optima():
    single = pnc.ClassStatistics.from_features(torch.eye(3).double(), torch.arange(3))
    assert vci(single) == 0.0
    assert feature_ranks(single).participation == pytest.approx(2.0)
    assert (span_spectrum(single) == 0).all()
    optimum = pnc.minimize(random_problem(seed=0, num_classes=3, dim=6).reduced).statistics
    assert 0 < vci(optimum) < 1

import math

import pytest
import torch
from problems import statistics_of

import perturb_nc as pnc
from perturb_nc.metrics import within as metrics
from perturb_nc.theory.collapse import orthogonal_frame, simplex_etf


def test_trace_and_pseudo_inverse_forms_of_nc1(generic):
    _, _, s = generic
    torch.testing.assert_close(metrics.nc1_trace(s), s.within.trace() / s.between.trace())
    dense = (s.within @ torch.linalg.pinv(s.between, rtol=1e-10)).trace()
    torch.testing.assert_close(metrics.nc1(s), dense / 5, rtol=1e-11, atol=0)
    torch.testing.assert_close(metrics.nc1_parker(s), dense, rtol=1e-11, atol=0)
    directions = torch.linalg.svd(s.means - s.means.mean(0), full_matrices=False).Vh[:4]
    inside = (directions @ s.within @ directions.mT).trace() / s.between.trace()
    torch.testing.assert_close(metrics.nc1_span(s), inside)
    share = s.within.trace() / (s.within.trace() + s.between.trace())
    torch.testing.assert_close(metrics.within_share(s), share)


def test_nc1_survives_what_breaks_a_dense_pseudo_inverse():
    # Near collapse, under a common offset, the null direction of the centring is noise.
    means = simplex_etf(10, 40) * 2
    noise = 1e-4 * torch.randn(2000, 40, dtype=torch.float64)
    labels = torch.arange(2000) % 10
    features = means[labels] + noise
    plain = metrics.nc1(pnc.ClassStatistics.from_features(features, labels))
    offset = metrics.nc1(pnc.ClassStatistics.from_features(features + 1e4, labels))
    torch.testing.assert_close(offset, plain, rtol=1e-6, atol=0)
    assert 0 < plain < 1e-6


def test_nc1_when_class_means_are_dependent():
    # d < K - 1, and two classes with the same mean: the rank is what it is.
    for d, twin in ((3, False), (12, True)):
        means = torch.randn(8, d, dtype=torch.float64)
        if twin:
            means[1] = means[0]
        within = torch.cov(torch.randn(d, 50, dtype=torch.float64))
        s = statistics_of(means, within)
        dense = (within @ torch.linalg.pinv(s.between, rtol=1e-10)).trace() / 8
        torch.testing.assert_close(metrics.nc1(s), dense, rtol=1e-9, atol=0)


def test_nc1_does_not_invert_float32_noise():
    # Six classes in a plane, seen through float32: the third direction and on are rounding.
    labels = torch.arange(600) % 6
    plane = torch.randn(6, 2, dtype=torch.float64)[labels]
    plane += 0.3 * torch.randn(600, 2, dtype=torch.float64)
    lift = torch.linalg.qr(torch.randn(20, 2, dtype=torch.float64)).Q
    exact = metrics.nc1(pnc.ClassStatistics.from_features(plane, labels))
    seen = pnc.ClassStatistics.from_features((plane @ lift.mT).float(), labels)
    torch.testing.assert_close(metrics.nc1(seen), exact, rtol=1e-5, atol=0)


def test_cdnv_against_a_loop_and_on_an_etf(generic):
    _, _, s = generic
    pairs = [
        (s.class_variance[i] + s.class_variance[j]) / (2 * (s.means[i] - s.means[j]).square().sum())
        for i in range(5)
        for j in range(i)
    ]
    torch.testing.assert_close(metrics.cdnv(s), torch.stack(pairs).mean())
    close = s.means.clone() + 100
    close[1] = close[0] + 1e-7
    expected = (s.class_variance[:2].sum() / (2 * (close[1] - close[0]).square().sum())).item()
    moved = statistics_of(close, s.within, s.counts, s.class_variance)
    assert metrics.cdnv(moved).item() * 10 == pytest.approx(expected, rel=1e-6)
    within = torch.cov(torch.randn(11, 50, dtype=torch.float64))
    etf = statistics_of(simplex_etf(6, 11), within)
    torch.testing.assert_close(metrics.cdnv(etf), (6 - 1) / (2 * 6) * metrics.nc1_trace(etf))


PAIRS = [(i, j) for i in range(5) for j in range(i)]


def test_directional_cdnv_against_a_loop(generic):
    _, _, s = generic
    along = []
    for i, j in PAIRS:
        gap = s.means[i] - s.means[j]
        u = gap / gap.norm()
        along.append((u @ s.within @ u) / gap.square().sum())
    expected = torch.stack(along).mean()
    torch.testing.assert_close(metrics.directional_cdnv(s), expected)
    assert abs(1.01 * expected - metrics.directional_cdnv(s)) > 1e-3 * expected


def test_directional_cdnv_of_isotropic_noise_is_one_direction_of_all():
    within = 0.3 * torch.eye(11, dtype=torch.float64)
    for frame in (simplex_etf, orthogonal_frame):
        s = statistics_of(frame(6, 11), within)
        torch.testing.assert_close(metrics.directional_cdnv(s), metrics.cdnv(s) / 11)


def test_directional_cdnv_counts_the_plane_of_the_means_alone():
    angles = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    within = torch.diag(torch.tensor([0.2, 0.2, 7.0], dtype=torch.float64))
    means = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)
    chords = 2 * torch.sin(math.pi * torch.arange(1, 10, dtype=torch.float64) / 10)
    s = statistics_of(means, within)  # where CDNV takes the 7 off the plane too
    torch.testing.assert_close(metrics.directional_cdnv(s), (0.2 / chords.square()).mean())


def test_pairs_that_are_not_told_apart():
    within = torch.eye(4, dtype=torch.float64)
    agree = statistics_of(torch.ones(3, 4, dtype=torch.float64), within)
    assert metrics.directional_cdnv(agree).isnan()
    twins = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    assert metrics.directional_cdnv(statistics_of(twins, within)).isnan()

import dataclasses
import math

import pytest
import torch

import perturb_nc as pnc
from perturb_nc import metrics
from perturb_nc.mean_geometry import angle_excess
from perturb_nc.theory.collapse import orthogonal_frame, simplex_etf


def statistics_of(means, within=None, counts=None, class_variance=None):
    k, d = means.shape
    within = torch.zeros(d, d, dtype=torch.float64) if within is None else within
    counts = torch.full((k,), 5) if counts is None else counts
    variance = within.trace().expand(k).clone() if class_variance is None else class_variance
    return pnc.ClassStatistics(counts, means, within, variance)


@pytest.fixture
def generic():
    features = torch.randn(60, 9, dtype=torch.float64)
    labels = torch.cat([torch.zeros(25), torch.arange(35) % 5]).long()
    features += 2 * torch.randn(5, 9, dtype=torch.float64)[labels]
    return features, labels, pnc.ClassStatistics.from_features(features, labels)


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


def test_without_separation_nothing_is_collapsed():
    means = torch.ones(3, 4, dtype=torch.float64)
    noisy = pnc.collapse_metrics(statistics_of(means, torch.eye(4, dtype=torch.float64)))
    assert noisy.nc1 == noisy.nc1_trace == noisy.cdnv == math.inf
    assert noisy.within_share == 1.0
    still = pnc.collapse_metrics(statistics_of(means))
    assert all(math.isnan(v) for v in (still.nc1, still.nc1_trace, still.cdnv, still.nc2_etf))


def test_nc2_against_its_definition(generic):
    _, _, s = generic
    m = s.means - s.means.mean(0)
    gram, k = m @ m.mT, 5
    etf = (torch.eye(k) - torch.ones(k, k) / k).double() / math.sqrt(k - 1)
    expected = (gram / gram.norm() - etf).norm()
    torch.testing.assert_close(metrics.nc2_etf(s), expected)
    gram = s.means @ s.means.mT
    expected = (gram / gram.norm() - torch.eye(k).double() / math.sqrt(k)).norm()
    torch.testing.assert_close(metrics.nc2_of(s), expected)
    norms = m.norm(dim=1)
    torch.testing.assert_close(
        metrics.nc2_equinorm(s), ((norms - norms.mean()).square().mean()).sqrt() / norms.mean()
    )
    cosines = [
        torch.dot(m[i], m[j]) / (norms[i] * norms[j]) + 1 / 4 for i in range(5) for j in range(i)
    ]
    torch.testing.assert_close(metrics.nc2_equiangular(s), torch.stack(cosines).abs().mean())
    torch.testing.assert_close(metrics.nc2_angle_std(s), torch.stack(cosines).std(correction=0))


def test_etf_and_frame_are_the_zeros_of_nc2():
    etf = statistics_of(3 * simplex_etf(6, 11))
    frame = statistics_of(0.5 * orthogonal_frame(6, 11))
    assert metrics.nc2_etf(etf) < 1e-14
    assert metrics.nc2_of(etf) > 0.1
    assert metrics.nc2_of(frame) < 1e-14
    assert metrics.nc2_etf(frame) < 1e-14  # a centred orthogonal frame is a simplex ETF
    for metric in (metrics.nc2_equinorm, metrics.nc2_equiangular, metrics.nc2_angle_std):
        assert metric(etf) < 1e-14


def test_ten_unit_vectors_on_a_circle():
    angles = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    s = statistics_of(torch.stack([angles.cos(), angles.sin()], dim=1))
    assert angle_excess(s).mean().abs() < 1e-14  # which is why it is no metric
    assert metrics.nc2_angle_std(s).item() == pytest.approx(0.657, abs=5e-4)
    assert metrics.nc2_equiangular(s).item() == pytest.approx(0.596, abs=5e-4)


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


def test_nc3_of_dual_and_orthogonal_weights(generic):
    _, _, s = generic
    weight = torch.randn(5, 9, dtype=torch.float64)
    m = s.means - s.means.mean(0)
    expected = (weight / weight.norm() - m / m.norm()).norm()
    torch.testing.assert_close(metrics.nc3_duality(s, weight), expected)
    assert metrics.nc3_duality(s, 7 * m) < 1e-14
    assert metrics.nc3_duality(s, torch.randn(8, 9, dtype=torch.float64)).isnan()


def test_nc3_alignment_against_singular_vectors(generic):
    _, _, s = generic
    span = torch.linalg.svd(s.means.mT, full_matrices=False).U
    for rows in (5, 13):
        weight = torch.randn(rows, 9, dtype=torch.float64)
        read = torch.linalg.svd(weight, full_matrices=False).Vh[:5]
        expected = torch.linalg.svdvals(read @ span).sum() / 5
        torch.testing.assert_close(metrics.nc3_alignment(s, weight), expected)
    mixed = torch.randn(5, 5, dtype=torch.float64) @ s.means
    torch.testing.assert_close(metrics.nc3_alignment(s, mixed), torch.tensor(1.0).double())
    assert metrics.nc3_alignment(s, weight[:4]).isnan()
    assert metrics.nc3_alignment(s, mixed - mixed.mean(0)).isnan()  # rank K - 1


def test_dnc_metrics(generic):
    _, _, s = generic
    torch.testing.assert_close(metrics.dnc2(s), torch.linalg.cond(s.means))
    weight = torch.randn(7, 9, dtype=torch.float64)
    weight[3] = 0
    cosines = torch.cosine_similarity(weight[:, None], s.means[None], dim=2).abs().amax(1)
    norms = weight.norm(dim=1)
    expected = (norms * (1 - cosines.square()).sqrt()).sum() / norms.sum()
    torch.testing.assert_close(metrics.dnc3(s, weight), expected)
    along = torch.tensor([[2.0], [0.0], [-3.0]]).double() * s.means[[2, 0, 4]]
    assert metrics.dnc3(s, along) < 1e-15


def test_invariant_under_rotation_and_relabelling(generic):
    features, labels, s = generic
    weight = torch.randn(5, 9, dtype=torch.float64)
    q = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    order = torch.tensor([3, 1, 4, 0, 2])
    moved = pnc.ClassStatistics.from_features(2.5 * features @ q.mT, order[labels])
    before = pnc.collapse_metrics(s, weight).as_dict()
    after = pnc.collapse_metrics(moved, weight[order.argsort()] @ q.mT).as_dict()
    assert before == pytest.approx(after, rel=1e-11)


def test_record_names_every_metric_and_prints_a_table(generic):
    _, _, s = generic
    record = pnc.collapse_metrics(s)
    assert math.isnan(record.nc3_duality)
    values = record.as_dict()
    assert list(values) == [f.name for f in dataclasses.fields(record)]
    for name, value in values.items():
        if name != "dnc1" and not math.isnan(value):
            assert getattr(metrics, name)(s).item() == value
    assert record.dnc1 == record.nc1_trace
    lines = str(record).splitlines()
    assert len(lines) == len(values)
    assert lines[0].split() == ["nc1_trace", f"{record.nc1_trace:.6g}"]


def test_weight_of_the_wrong_shape_is_named(generic):
    _, _, s = generic
    with pytest.raises(ValueError, match=r"weight must have shape \('any', 9\), got \(5, 8\)"):
        pnc.collapse_metrics(s, torch.randn(5, 8))
    with pytest.raises(ValueError, match="weight must be real and finite"):
        pnc.collapse_metrics(s, torch.full((5, 9), torch.nan))


def test_collapse_depth_is_the_first_layer_below_the_threshold():
    within = torch.eye(11, dtype=torch.float64)
    layers = {
        name: statistics_of(simplex_etf(6, 11), within * 2 * cdnv / 11)
        for name, cdnv in [("a", 0.9), ("b", 0.21), ("c", 0.19), ("d", 0.3)]
    }
    assert metrics.collapse_depth(layers) == "c"
    assert metrics.collapse_depth(layers, threshold=0.1) is None


def test_metrics_of_pairs_and_angles_against_loops(generic):
    _, _, s = generic
    m = s.means - s.means.mean(0)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    along = []
    for i, j in pairs:
        gap = s.means[i] - s.means[j]
        u = gap / gap.norm()
        along.append((u @ s.within @ u) / gap.square().sum())
    expected = torch.stack(along).mean()
    torch.testing.assert_close(metrics.directional_cdnv(s), expected)
    assert abs(1.01 * expected - metrics.directional_cdnv(s)) > 1e-3 * expected
    unit = s.means / s.means.norm(dim=1, keepdim=True)
    nearest = max((unit[i] @ unit[j]).item() for i, j in pairs)
    assert metrics.discrimination(s).item() == pytest.approx(1 - nearest, rel=1e-13)
    unit = m / m.norm(dim=1, keepdim=True)
    energies = torch.stack([1 / (unit[i] - unit[j]).norm() for i, j in pairs]).log()
    torch.testing.assert_close(metrics.hyperspherical_energy(s), energies.mean())
    spread = (energies - energies.mean()).square().mean()
    torch.testing.assert_close(metrics.nc2_uniformity(s), spread)
    weight = torch.randn(5, 9, dtype=torch.float64)
    cosines = torch.cosine_similarity(weight, m)
    spread = (cosines - cosines.mean()).square().mean()
    torch.testing.assert_close(metrics.nc3_uniformity(s, weight), spread)


def test_metrics_of_pairs_and_angles_at_frames():
    k, within = 6, 0.3 * torch.eye(11, dtype=torch.float64)
    etf, frame = (statistics_of(f(k, 11), within) for f in (simplex_etf, orthogonal_frame))
    # Isotropic: one direction of d = 11, so CDNV/d.
    for s in (etf, frame):
        torch.testing.assert_close(metrics.directional_cdnv(s), metrics.cdnv(s) / 11)
        assert metrics.nc2_uniformity(s) < 1e-28
        assert metrics.nc3_uniformity(s, 2 * s.centered_means) < 1e-28
        energy = -math.log(2 * k / (k - 1)) / 2
        assert metrics.hyperspherical_energy(s).item() == pytest.approx(energy, rel=1e-13)
    assert metrics.discrimination(etf).item() == pytest.approx(k / (k - 1), rel=1e-14)
    assert metrics.discrimination(frame).item() == pytest.approx(1.0, rel=1e-14)
    turned = etf.centered_means.roll(1, 0)
    assert metrics.nc3_uniformity(etf, turned) < 1e-28  # alike, however wrong
    assert metrics.nc3_uniformity(etf, torch.eye(4, 11, dtype=torch.float64)).isnan()
    two = statistics_of(torch.tensor([[3.0, 1.0], [-1.0, 2.0]], dtype=torch.float64))
    assert metrics.nc2_uniformity(two) == 0
    assert metrics.hyperspherical_energy(two).item() == pytest.approx(-math.log(2), rel=1e-14)


def test_ten_unit_vectors_on_a_circle_and_their_pairs():
    angles = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    within = torch.diag(torch.tensor([0.2, 0.2, 7.0], dtype=torch.float64))
    means = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)
    s = statistics_of(means, within)
    chords = 2 * torch.sin(math.pi * torch.arange(1, 10, dtype=torch.float64) / 10)
    assert metrics.discrimination(s).item() == pytest.approx(1 - math.cos(math.pi / 5), rel=1e-12)
    torch.testing.assert_close(metrics.hyperspherical_energy(s), -chords.log().mean())
    torch.testing.assert_close(metrics.nc2_uniformity(s), chords.log().var(correction=0))
    # The plane alone counts, where CDNV takes the 7 off it too.
    torch.testing.assert_close(metrics.directional_cdnv(s), (0.2 / chords.square()).mean())


def test_pairs_that_are_not_told_apart():
    within = torch.eye(4, dtype=torch.float64)
    agree = statistics_of(torch.ones(3, 4, dtype=torch.float64), within)
    assert metrics.discrimination(agree).item() == pytest.approx(0.0, abs=1e-15)
    for metric in (metrics.directional_cdnv, metrics.nc2_uniformity, metrics.hyperspherical_energy):
        assert metric(agree).isnan()
    twins = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]]
    s = statistics_of(twins, within)
    assert metrics.hyperspherical_energy(s) == math.inf
    assert metrics.nc2_uniformity(s).isnan()
    assert metrics.directional_cdnv(s).isnan()
    assert metrics.discrimination(statistics_of(0 * twins, within)).isnan()

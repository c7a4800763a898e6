import math

import pytest
import torch
from problems import statistics_of

from perturb_nc.metrics import frame as metrics
from perturb_nc.metrics.mean_geometry import angle_excess
from perturb_nc.theory.collapse import orthogonal_frame, simplex_etf


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
        metrics.nc2_equinorm(s),
        ((norms - norms.mean()).square().mean()).sqrt() / norms.mean(),
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
    for metric in (
        metrics.nc2_equinorm,
        metrics.nc2_equiangular,
        metrics.nc2_angle_std,
    ):
        assert metric(etf) < 1e-14


def test_ten_unit_vectors_on_a_circle():
    angles = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    s = statistics_of(torch.stack([angles.cos(), angles.sin()], dim=1))
    assert angle_excess(s).mean().abs() < 1e-14  # which is why it is no metric
    assert metrics.nc2_angle_std(s).item() == pytest.approx(0.657, abs=5e-4)
    assert metrics.nc2_equiangular(s).item() == pytest.approx(0.596, abs=5e-4)


def test_dnc2_is_the_condition_number(generic):
    _, _, s = generic
    torch.testing.assert_close(metrics.dnc2(s), torch.linalg.cond(s.means))


PAIRS = [(i, j) for i in range(5) for j in range(i)]


def test_angles_against_loops(generic):
    _, _, s = generic
    m = s.means - s.means.mean(0)
    unit = s.means / s.means.norm(dim=1, keepdim=True)
    nearest = max((unit[i] @ unit[j]).item() for i, j in PAIRS)
    assert metrics.discrimination(s).item() == pytest.approx(1 - nearest, rel=1e-13)
    unit = m / m.norm(dim=1, keepdim=True)
    energies = torch.stack([1 / (unit[i] - unit[j]).norm() for i, j in PAIRS]).log()
    torch.testing.assert_close(metrics.hyperspherical_energy(s), energies.mean())
    spread = (energies - energies.mean()).square().mean()
    torch.testing.assert_close(metrics.nc2_uniformity(s), spread)


def test_angles_at_frames():
    k = 6
    etf, frame = (statistics_of(f(k, 11)) for f in (simplex_etf, orthogonal_frame))
    energy = -math.log(2 * k / (k - 1)) / 2
    for s in (etf, frame):
        assert metrics.nc2_uniformity(s) < 1e-28
        assert metrics.hyperspherical_energy(s).item() == pytest.approx(energy, rel=1e-13)
    assert metrics.discrimination(etf).item() == pytest.approx(k / (k - 1), rel=1e-14)
    assert metrics.discrimination(frame).item() == pytest.approx(1.0, rel=1e-14)
    two = statistics_of(torch.tensor([[3.0, 1.0], [-1.0, 2.0]], dtype=torch.float64))
    assert metrics.nc2_uniformity(two) == 0
    assert metrics.hyperspherical_energy(two).item() == pytest.approx(-math.log(2), rel=1e-14)


def test_chords_of_ten_unit_vectors_on_a_circle():
    angles = 2 * math.pi * torch.arange(10, dtype=torch.float64) / 10
    means = torch.stack([angles.cos(), angles.sin(), 0 * angles], dim=1)
    s = statistics_of(means)
    chords = 2 * torch.sin(math.pi * torch.arange(1, 10, dtype=torch.float64) / 10)
    assert metrics.discrimination(s).item() == pytest.approx(1 - math.cos(math.pi / 5), rel=1e-12)
    torch.testing.assert_close(metrics.hyperspherical_energy(s), -chords.log().mean())
    torch.testing.assert_close(metrics.nc2_uniformity(s), chords.log().var(correction=0))


def test_angles_between_means_that_agree():
    agree = statistics_of(torch.ones(3, 4, dtype=torch.float64))
    assert metrics.discrimination(agree).item() == pytest.approx(0.0, abs=1e-15)
    assert metrics.nc2_uniformity(agree).isnan()
    assert metrics.hyperspherical_energy(agree).isnan()
    twins = statistics_of(torch.eye(4, dtype=torch.float64)[[0, 0, 1, 2]])
    assert metrics.hyperspherical_energy(twins) == math.inf
    assert metrics.nc2_uniformity(twins).isnan()
    nothing = statistics_of(torch.zeros(4, 4, dtype=torch.float64))
    assert metrics.discrimination(nothing).isnan()

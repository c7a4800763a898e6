import torch
from problems import statistics_of

from perturb_nc.metrics import duality as metrics
from perturb_nc.theory.collapse import orthogonal_frame, simplex_etf


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


def test_dnc3_against_its_definition(generic):
    _, _, s = generic
    weight = torch.randn(7, 9, dtype=torch.float64)
    weight[3] = 0
    cosines = torch.cosine_similarity(weight[:, None], s.means[None], dim=2).abs().amax(1)
    norms = weight.norm(dim=1)
    expected = (norms * (1 - cosines.square()).sqrt()).sum() / norms.sum()
    torch.testing.assert_close(metrics.dnc3(s, weight), expected)
    along = torch.tensor([[2.0], [0.0], [-3.0]]).double() * s.means[[2, 0, 4]]
    assert metrics.dnc3(s, along) < 1e-15


def test_uniform_duality_against_its_definition_and_at_frames(generic):
    _, _, s = generic
    weight = torch.randn(5, 9, dtype=torch.float64)
    cosines = torch.cosine_similarity(weight, s.means - s.means.mean(0))
    spread = (cosines - cosines.mean()).square().mean()
    torch.testing.assert_close(metrics.nc3_uniformity(s, weight), spread)
    for frame in (simplex_etf, orthogonal_frame):
        s = statistics_of(frame(6, 11))
        assert metrics.nc3_uniformity(s, 2 * s.centered_means) < 1e-28
    turned = s.centered_means.roll(1, 0)
    assert metrics.nc3_uniformity(s, turned) < 1e-28  # alike, however wrong
    assert metrics.nc3_uniformity(s, torch.eye(4, 11, dtype=torch.float64)).isnan()

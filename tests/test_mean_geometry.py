"""Products over pairs of classes, as Gram matrices where there are many."""

import pytest
import torch

from perturb_nc import mean_geometry
from perturb_nc.mean_geometry import pair_products


@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_products_of_many_classes_are_those_of_the_differences(monkeypatch, offset):
    means = torch.randn(150, 12, dtype=torch.float64)
    means[7] = means[3] + 1e-7 * means[5]  # close: its products would cancel
    means[9] = means[8]
    means = (means + offset).requires_grad_()
    within = torch.randn(12, 12, dtype=torch.float64)
    turned = means @ (within @ within.mT)
    found = [pair_products(means, means), pair_products(means, turned)]
    slopes = torch.autograd.grad(found[0].add(1).sqrt()[:2000].sum(), means, retain_graph=True)
    assert len(means) > mean_geometry._MANY
    monkeypatch.setattr(mean_geometry, "_MANY", len(means))
    expected = [pair_products(means, means), pair_products(means, turned)]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=0.0)
    wanted = torch.autograd.grad(expected[0].add(1).sqrt()[:2000].sum(), means)
    torch.testing.assert_close(slopes, wanted, rtol=1e-9, atol=1e-9)

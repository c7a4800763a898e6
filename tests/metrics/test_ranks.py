import dataclasses
import math

import pytest
import torch
from populations import collapsed, sample

import perturb_nc as pnc
from perturb_nc.metrics.ranks import feature_ranks


def test_ranks_against_singular_values_of_the_samples():
    x, labels = sample((9, 9, 9, 9))
    found = feature_ranks(pnc.ClassStatistics.from_features(x, labels))
    sizes = torch.linalg.svdvals(x - x.mean(0))
    shares = sizes / sizes.sum()
    entropy = -(shares * shares.log()).sum()
    assert found.effective == pytest.approx(entropy.exp().item(), rel=1e-12)
    squares = sizes.square()
    participation = (squares.sum() ** 2 / squares.square().sum()).item()
    assert found.participation == pytest.approx(participation, rel=1e-12)
    assert found.numerical == next(i for i in range(1, 8) if shares[:i].sum() >= 0.95)
    assert abs(1.01 * participation - found.participation) > 1e-3
    turn = torch.linalg.qr(torch.randn(7, 7).double()).Q
    moved = pnc.ClassStatistics.from_features(3 * x @ turn - 2, (labels + 1) % 4)
    assert feature_ranks(moved).as_dict() == pytest.approx(found.as_dict(), rel=1e-10)


def test_ranks_of_frames():
    # Collapse to a simplex ETF: K - 1 directions alike. Isotropic: d, numerical 95 % of them.
    found = feature_ranks(collapsed())
    assert found.as_dict() == pytest.approx({"effective": 5, "participation": 5, "numerical": 5})
    still = torch.zeros(2, 40, dtype=torch.float64)
    round_ = pnc.ClassStatistics(
        torch.tensor([5, 5]), still, torch.eye(40).double(), torch.tensor([40.0, 40.0]).double()
    )
    wanted = {"effective": 40, "participation": 40, "numerical": 38}
    assert feature_ranks(round_).as_dict() == pytest.approx(wanted)
    nothing = dataclasses.replace(round_, within=torch.zeros(40, 40).double())
    assert all(math.isnan(v) for v in feature_ranks(nothing).as_dict().values())

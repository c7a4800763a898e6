import dataclasses
import math

import pytest
import torch
from problems import near_collapse

import perturb_nc as pnc
from perturb_nc.theory.vicinity import prediction


def test_frame_size_and_distance():
    statistics, setting, _ = near_collapse(0.05, bias=True)
    found = prediction.small_vicinity(statistics, **setting, bias=True)
    identity = torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(found.frame @ found.frame.mT, identity - 0.25)
    centred = statistics.centered_means
    nuclear = torch.linalg.svdvals(centred).sum()  # of all frames the nearest has this overlap
    torch.testing.assert_close((centred * found.frame).sum(), nuclear)
    gap = (centred - found.size * found.frame).square().sum() / 4 + statistics.within.trace()
    assert found.distance == pytest.approx(math.sqrt(gap / (found.size**2 * 3 / 4)))
    expected = pnc.collapse_metrics(found.statistics, found.weight).as_dict()
    assert found.metrics.as_dict() == pytest.approx(expected, nan_ok=True)


@pytest.mark.usefixtures("unchecked")
def test_refuses_what_has_no_nearest_frame():
    statistics, setting, _ = near_collapse(0.01)
    for change, message in (
        ({"lambda_h": 0.0}, "lambda_h must be > 0, got 0.0"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
        ({"order": 0}, "order must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            prediction.small_vicinity(statistics, **{**setting, **change})
    centred = dataclasses.replace(statistics, means=statistics.centered_means)
    with pytest.raises(ValueError, match=r"linearly independent, got .* or bias=True"):
        prediction.small_vicinity(centred, **setting)
    flat = dataclasses.replace(
        statistics, means=statistics.means[:, :3], within=statistics.within[:3, :3]
    )
    with pytest.raises(ValueError, match=r"statistics must have dim >= 4 .* got 3"):
        prediction.small_vicinity(flat, **setting)
    assert prediction.small_vicinity(flat, **setting, bias=True).frame.shape == (4, 3)
    found = prediction.small_vicinity(statistics, **setting)
    with pytest.raises(ValueError, match="reference_features must have dimension 9, got 3"):
        found.features(torch.zeros(2, 3), [0, 1])

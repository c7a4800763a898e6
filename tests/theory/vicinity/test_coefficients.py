import dataclasses
import math

import numpy as np
import pytest
import torch
from problems import near_collapse
from vicinities import remainders, slopes

import perturb_nc as pnc
from perturb_nc.theory.vicinity import prediction
from perturb_nc.theory.vicinity.coefficients import Mixture, coefficients

FIRST = [f"{group}.{name}" for group in ("means", "weight") for name in Mixture._fields]
SECOND = ["symmetric", "rotation", "off_span"]


def bent(scalars, part):
    """Coefficients with one of them 1 % larger."""
    group, _, name = part.rpartition(".")
    if not group:
        return dataclasses.replace(scalars, **{name: 1.01 * getattr(scalars, name)})
    mixture = getattr(scalars, group)
    changed = mixture._replace(**{name: 1.01 * getattr(mixture, name)})
    return dataclasses.replace(scalars, **{group: changed})


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("part", [*FIRST, "gamma_in", "gamma_out", *SECOND])
def test_a_one_percent_mutation_of_any_coefficient_is_seen(part, bias, monkeypatch):
    order = 2 if part in SECOND else 1
    monkeypatch.setattr(prediction, "coefficients", lambda *a: bent(coefficients(*a), part))
    steps = np.array([2e-5, 1e-5]) if order == 1 else np.array([2e-4, 1e-4])
    errors = remainders({"bias": bias, "uneven": 1.0}, steps, order)[:, : 4 - order]
    assert slopes(errors, steps).min() < order + 0.6


def test_attenuations_are_eigenvalues_of_the_response():
    statistics, setting, _ = near_collapse(0.01)
    found = prediction.small_vicinity(statistics, **setting)
    spectrum = pnc.near_collapse_spectrum(num_classes=4, dim=9, samples_per_class=5, **setting)
    scalars = coefficients(*(torch.tensor(v, dtype=torch.float64) for v in setting.values()), 4)
    own = [found.gamma_in, found.gamma_out, 1.0, scalars.means.stretch.value.item()]
    np.testing.assert_allclose(own, spectrum.eigenvalues, rtol=1e-14)


@pytest.mark.parametrize("bias", [False, True])
def test_limits_of_beta(bias):
    statistics, setting, _ = near_collapse(0.03, bias=bias)
    held = prediction.small_vicinity(statistics, **{**setting, "beta": 1e9}, bias=bias).statistics
    torch.testing.assert_close(held.means, statistics.means, rtol=0, atol=1e-7)
    torch.testing.assert_close(held.within, statistics.within, rtol=0, atol=1e-7)
    free = prediction.small_vicinity(statistics, **{**setting, "beta": 1e-9}, bias=bias)
    own = free.statistics.means - free.statistics.means.mean(0) * bias
    torch.testing.assert_close(own, free.size * free.frame, rtol=0, atol=1e-7)
    assert free.statistics.within.abs().max() < 1e-15


def test_towards_c0_equal_one_the_optimum_vanishes():
    statistics, setting, _ = near_collapse(0.01, lambda_h=0.9999 / 0.3)
    weak = {**setting, "beta": 1e-3}
    found = prediction.small_vicinity(statistics, **weak)
    assert found.size == pytest.approx(
        math.sqrt((1 - math.sqrt(0.9999)) * math.sqrt(0.3 / setting["lambda_h"]))
    )
    assert not found.is_small  # the distance is large against means that vanish
    with pytest.raises(ValueError, match=r"lambda_w \* lambda_h must be < 1, got 1; from 1 on"):
        prediction.small_vicinity(statistics, lambda_w=0.5, lambda_h=2.0, beta=1.0)

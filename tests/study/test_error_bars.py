import math

import pytest
import torch

from perturb_nc.study.error_bars import Slope

A = torch.tensor([[1.5]], dtype=torch.float64)
NOISE, WITHIN = torch.tensor([[0.2]]).double(), torch.tensor([[0.5]]).double()
S = 0.1  # the variance of the noise


@pytest.mark.parametrize("exponent", [2, 1, -1, -2])
def test_powers_of_one_mean(exponent):
    """V = m²a^(2m-2)s ∝ θ^(2-2/m), and V̂ follows θ̂ exactly."""
    slope = Slope.of(lambda a: a.pow(exponent).sum(), A, NOISE, WITHIN)
    theta, power = 1.5**exponent, 2 - 2 / exponent
    assert slope.rate * theta == pytest.approx(power, abs=1e-12)
    assert slope.rest == pytest.approx(0, abs=1e-14)


def test_a_variance_that_moves_by_itself_has_few_degrees_of_freedom():
    # θ = x², V = 4x²s; V̂ moves with y too where θ = x²(1 + y), at y = 0: V = (4x² + x⁴)s.
    a = torch.tensor([[1.5, 0.0]], dtype=torch.float64)
    identity = torch.eye(2, dtype=torch.float64)
    slope = Slope.of(lambda a: (a[:, 0] ** 2 * (1 + a[:, 1])).sum(), a, NOISE, identity)
    s, x = 0.2, 1.5
    pull, turn = (2 * x, x**2), ((8 * x + 4 * x**3) * s, (8 * x**2) * s)
    variance = (pull[0] ** 2 + pull[1] ** 2) * s
    common = (pull[0] * turn[0] + pull[1] * turn[1]) * s
    own = (turn[0] ** 2 + turn[1] ** 2) * s
    assert slope.rate == pytest.approx(common / variance**2)
    assert slope.rest == pytest.approx((own - common**2 / variance) / variance**2)
    assert (slope + Slope(1.0, 2.0)).rate == pytest.approx(slope.rate + 1.0)


def test_the_ends_of_an_interval_solve_its_equation():
    slope, z = Slope(0.3, 0.0), 1.959963985
    low, high = slope.interval(2.0, 0.5, 0.25, 0.95)
    for end in (low, high):
        assert (end - 1.75) ** 2 == pytest.approx(z**2 * (0.5 + 0.15 * (end - 1.75)))
    assert Slope(0.0, 0.0).interval(5.0, 1.0, 0.0, 0.95) == pytest.approx((5 - z, 5 + z))
    assert slope.interval(-1.0, 0.1, 0.0, 0.95)[0] == 0.0


def test_of_the_inverse_of_a_distance_the_upper_end_may_be_infinite():
    """θ = 1/g with V ∝ θ⁴: g has a constant variance, and is 0 within it or not."""
    for g, s in ((3.0, 1.0), (1.0, 1.0)):
        theta, variance = 1 / g, s / g**4
        low, high = Slope(4 / theta, 0.0).interval(theta, variance, variance / theta, 0.95)
        assert low == pytest.approx(1 / (g + 1.959963985))
        assert high == pytest.approx(1 / (g - 1.959963985) if g > 2 else math.inf)


def test_students_quantiles():
    assert Slope(0.0, 0.0).quantile(0.95) == pytest.approx(1.959963985)
    assert Slope(0.0, 2 / 8).quantile(0.95) == pytest.approx(2.306004135)
    assert Slope(0.0, 1e6).quantile(0.95) == pytest.approx(4.302652730)  # two degrees at least

import dataclasses
import math

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.theory.collapse import orthogonal_frame, simplex_etf


def test_frames():
    frame = orthogonal_frame(4, 7, seed=1)
    torch.testing.assert_close(frame @ frame.mT, torch.eye(4).double())
    for dim in (3, 9):
        etf = simplex_etf(4, dim)
        torch.testing.assert_close(etf @ etf.mT, torch.eye(4).double() - 0.25)
    assert not orthogonal_frame(4, 7, seed=2).equal(frame)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_collapse_is_a_certified_stationary_point(bias, beta):
    exact = pnc.exact_collapse(num_classes=4, dim=6, lambda_w=0.3, lambda_h=0.2, bias=bias)
    problem = pnc.NearCollapseProblem(
        exact.statistics(5), lambda_w=0.3, lambda_h=0.2, beta=beta, bias=bias
    )
    point = problem.at(exact.weight)
    assert point.gradient_norm < 1e-14
    torch.testing.assert_close(point.means, exact.means)
    assert point.objective.item() == pytest.approx(exact.objective, rel=1e-14)
    assert pnc.certify(problem, exact.weight).is_global
    bent = problem.at(1.01 * exact.weight)
    assert bent.gradient_norm > 1e-4


def test_collapse_is_that_of_balanced_classes():
    """Classes of 2, 5 and 9 keep orthogonal means, but of other lengths."""
    settings = {"lambda_w": 0.3, "lambda_h": 0.2}
    exact = pnc.exact_collapse(num_classes=3, dim=5, **settings)
    balanced = exact.statistics(5)
    for counts, same in ((torch.tensor([5, 5, 5]), True), (torch.tensor([2, 5, 9]), False)):
        reference = dataclasses.replace(balanced, counts=counts)
        solution = pnc.minimize(pnc.NearCollapseProblem(reference, **settings, beta=0.0))
        assert solution.certificate.is_global
        gram = solution.statistics.means @ solution.statistics.means.mT
        lengths, angles = gram.diagonal(), gram - gram.diag().diag()
        assert angles.abs().max() < 1e-8
        gap = (lengths - exact.rho).abs().max()
        assert gap < 1e-8 if same else gap > 0.1


def test_collapse_is_no_frame_in_fewer_dimensions_than_classes():
    settings = {"lambda_w": 0.3, "lambda_h": 0.2}
    statistics = pnc.exact_collapse(num_classes=4, dim=4, **settings).statistics(5)
    flat = dataclasses.replace(
        statistics, means=statistics.means[:, :3], within=statistics.within[:3, :3]
    )
    solution = pnc.minimize(pnc.NearCollapseProblem(flat, **settings, beta=0.0))
    assert pnc.collapse_metrics(solution.statistics).nc2_of > 0.1


def test_values():
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=0.5, lambda_h=0.08)
    assert exact.c0 == pytest.approx(0.2)
    assert exact.rho == pytest.approx(0.8 * 2.5)
    assert exact.objective == pytest.approx(0.2 - 0.02)
    torch.testing.assert_close(exact.weight @ exact.means.mT, 0.8 * torch.eye(3).double())


def test_zero_from_c0_equal_one_on():
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=2.0, lambda_h=0.5)
    assert exact.rho == 0
    assert not exact.weight.any()
    assert exact.objective == 0.5


def test_large_beta_forms_are_the_papers():
    spectrum = pnc.near_collapse_spectrum(
        num_classes=4, dim=10, samples_per_class=10, lambda_w=2**0.5, lambda_h=0.1, beta=100.0
    )
    c0 = math.sqrt(2**0.5 * 0.1)
    linear = spectrum.large_beta_block_values
    assert linear.min() == pytest.approx(1 - math.sqrt(0.1 / 2**0.5) / 100)
    assert spectrum.large_beta_off_block_value == pytest.approx(2 * 0.1 * (1 - c0) / 100)
    assert spectrum.multiplicities.sum() == 4 * 10 * 10
    assert spectrum.block_multiplicities.sum() == 10 * 10


def test_large_beta_forms_have_a_second_order_remainder():
    remainders = []
    for beta in (100.0, 200.0):
        spectrum = pnc.near_collapse_spectrum(
            num_classes=4, dim=10, samples_per_class=10, lambda_w=0.5, lambda_h=0.3, beta=beta
        )
        remainders.append(abs(spectrum.block_values - spectrum.large_beta_block_values))
    moving = remainders[0] > 0  # the value 1 is exact
    assert moving.sum() == 4
    assert remainders[0][moving] / remainders[1][moving] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda_w": 4.0, "lambda_h": 0.5}, "lambda_w . lambda_h must be < 1, got 2"),
        ({"dim": 3}, "dim must be >= 4, got 3"),
        ({"num_classes": 1}, "num_classes must be >= 2, got 1"),
        ({"samples_per_class": 0}, "samples_per_class must be >= 1, got 0"),
        ({"samples_per_class": 2.5}, "samples_per_class must be an integer, got 2.5"),
        ({"beta": 0.0}, "beta must be > 0, got 0.0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_spectrum_arguments_are_checked(change, message):
    arguments = {
        "num_classes": 4, "dim": 6, "samples_per_class": 3,
        "lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0, **change,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        pnc.near_collapse_spectrum(**arguments)


def test_collapse_arguments_are_checked():
    with pytest.raises(ValueError, match="dim must be >= 4, got 3"):
        pnc.exact_collapse(num_classes=4, dim=3, lambda_w=0.1, lambda_h=0.1)
    with pytest.raises(ValueError, match="lambda_h must be > 0"):
        pnc.exact_collapse(num_classes=4, dim=5, lambda_w=0.1, lambda_h=0.0)

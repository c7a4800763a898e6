import pytest
from shown import axes, features

import perturb_nc as pnc

SETTING = {"lambda_w": 0.02, "lambda_h": 0.01, "beta": 0.3}


def test_vicinities_over_the_parameter_that_varies():
    s = features(0.05)
    betas = [1.0, 0.1, 0.3]
    found = [pnc.small_vicinity(s, **SETTING | {"beta": b}) for b in betas]
    (axis,) = pnc.plot_vicinity(found, metrics=["nc1_trace"], ax=axes())
    assert axis.get_xlabel() == r"$\beta$"
    curve = axis.lines[1]
    assert list(curve.get_xdata()) == [0.1, 0.3, 1.0]
    expected = [found[i].metrics.nc1_trace for i in (1, 2, 0)]
    assert list(curve.get_ydata()) == expected
    reference = pnc.collapse_metrics(s).nc1_trace
    assert set(axis.lines[0].get_ydata()) == {reference}


def test_what_is_no_small_vicinity_is_drawn_open():
    found = pnc.small_vicinity(features(1.0), **SETTING)
    assert not found.is_small
    (axis,) = pnc.plot_vicinity(found, metrics=["nc1"], ax=axes())
    (dots,) = [line for line in axis.lines if line.get_label() == "too far to trust"]
    assert dots.get_markerfacecolor() == "white"


def test_vicinities_that_do_not_belong_together_are_refused():
    s = features(0.05)
    two = [pnc.small_vicinity(s, **SETTING | {"beta": b, "lambda_h": b}) for b in (0.1, 0.2)]
    with pytest.raises(ValueError, match="differ in one parameter, got lambda_h, beta"):
        pnc.plot_vicinity(two)
    other = pnc.small_vicinity(features(0.06), **SETTING)
    with pytest.raises(ValueError, match="one layer, got several"):
        pnc.plot_vicinity([two[0], other])
    with pytest.raises(ValueError, match="at least one prediction"):
        pnc.plot_vicinity([])

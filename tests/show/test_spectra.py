"""What the plots of spectra and vicinities hold."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import perturb_nc as pnc
from perturb_nc.theory import cross_entropy_spectrum
from perturb_nc.within_metrics import within_spectrum

SETTING = {"lambda_w": 0.02, "lambda_h": 0.01, "beta": 0.3}
SIZES = {"num_classes": 3, "dim": 6, "samples_per_class": 5}


def features(scale):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    noise = torch.randn(60, 6, generator=generator, dtype=torch.float64)
    return pnc.ClassStatistics.from_features(scale * noise + torch.eye(3, 6)[labels], labels)


def axes(count=1):
    return Figure().subplots(1, count, squeeze=False)[0]


@pytest.mark.parametrize("law", [pnc.near_collapse_spectrum, cross_entropy_spectrum])
def test_eigenvalues_of_the_response_with_their_multiplicities(law, tmp_path):
    spectrum = law(**SIZES, **SETTING)
    (given,) = axes()
    axis = pnc.plot_spectrum(spectrum, ax=given)
    assert axis is given
    assert list(axis.lines[0].get_xdata()) == list(spectrum.eigenvalues)
    labels = [text.get_text() for text in axis.get_yticklabels()]
    expected = zip(spectrum.names, spectrum.multiplicities, strict=True)
    assert labels == [f"{name} (×{count})" for name, count in expected]
    axis.figure.savefig(tmp_path / "spectrum.svg")


def test_eigenvalues_of_layers():
    layers = {"a_$1": features(0.3), "b": features(0.1)}
    axis = pnc.plot_spectrum(layers, ax=axes()[0])
    for line, s in zip(axis.lines, layers.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), within_spectrum(s))
    assert axis.lines[0].get_label() == r"a_\$1"
    assert len({line.get_marker() for line in axis.lines}) == 2
    alone = pnc.plot_spectrum(layers["b"], ax=axes()[0])
    assert alone.get_legend() is None


def test_eigenvalues_of_a_comparison():
    layers = {"a": features(0.3), "b": features(0.2), "c": features(0.1)}
    table = pnc.compare_layers(layers, name="net", lambda_w=0.1, pairs=False)
    axis = pnc.plot_spectrum(table, layer="b", ax=axes()[0])
    drawn = {line.get_label(): line.get_ydata() for line in axis.lines}
    measured = table["spectrum"].sel(layer="b").values
    np.testing.assert_array_equal(drawn["measured"], measured)
    assert {"path", "shrinkage", "interpolation"} <= set(drawn)
    with pytest.raises(ValueError, match="layer must be one of a, b, c, got 'z'"):
        pnc.plot_spectrum(table, layer="z", ax=axes()[0])


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

"""What the plots of spectra and vicinities hold."""

import numpy as np
import pytest
from shown import axes, features

import perturb_nc as pnc
from perturb_nc.metrics.within import within_spectrum
from perturb_nc.theory import cross_entropy_spectrum

SETTING = {"lambda_w": 0.02, "lambda_h": 0.01, "beta": 0.3}
SIZES = {"num_classes": 3, "dim": 6, "samples_per_class": 5}


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

import numpy as np
import pytest
from matplotlib.figure import Figure

from perturb_nc.show import panels


def axes(count):
    figure = Figure()
    return [figure.add_subplot(1, count, i + 1) for i in range(count)]


def test_panels_are_named_and_as_many_as_quantities():
    given = axes(2)
    found = panels.panels(["nc1", "of one's own"], given)
    assert list(found) == given
    assert "NC1" in given[0].get_title(loc="left")
    assert given[1].get_title(loc="left") == "of one's own"
    with pytest.raises(ValueError, match="one axes for each of nc1, cdnv, got 3"):
        panels.panels(["nc1", "cdnv"], axes(3))
    with pytest.raises(ValueError, match="at least one quantity"):
        panels.panels([], None)


def test_a_grid_is_wide_before_it_is_high():
    assert [panels.grid(n) for n in (1, 3, 4, 5, 6, 7)] == [
        (1, 1), (1, 3), (2, 2), (2, 3), (2, 3), (2, 4),
    ]  # fmt: skip


def test_a_scale_is_logarithmic_over_more_than_a_decade():
    for values, scale in (([1, 20], "log"), ([1, 5], "linear"), ([0, 20], "linear")):
        (axis,) = axes(1)
        axis.plot([0, 1, 2], [*values, np.nan])
        panels.logarithmic(axis)
        assert axis.get_yscale() == scale


def test_of_many_layers_some_are_named():
    (axis,) = axes(1)
    panels.by_layer(axis, [f"layer{i}" for i in range(60)])
    labels = [text.get_text() for text in axis.get_xticklabels()]
    assert labels[:2] == ["layer0", "layer3"]
    assert len(labels) == 20

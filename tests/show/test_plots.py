"""What the plots hold; how they look is for the eye."""

import math

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import perturb_nc as pnc
from perturb_nc.show.panels import ALONG, whole
from perturb_nc.show.plots import TRACES

TIMES = [0.0, 0.1, 1.0, 10.0]
SETTING = {"lambda_w": 0.02, "lambda_h": 0.01, "beta": 0.5}


@pytest.fixture(scope="module")
def path():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64) + 2 * torch.eye(3, 5)[labels]
    start = pnc.ClassStatistics.from_features(x, labels)
    return pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.05, times=TIMES)


def layers_of(path, order=(0, 1, 2)):
    return {f"layer{i}": path.statistics(i) for i in order}


def calibration(path, order):
    return pnc.calibrate_depth(layers_of(path, order), lambda_w=0.1, lambda_h=0.05)


def on(count):
    """Axes of a figure of one's own."""
    return Figure().subplots(1, count, squeeze=False)[0]


def lines(axis):
    return {line.get_label(): line for line in axis.lines}


def written(axes, tmp_path):
    """Whether PDF and SVG come out, which need no LaTeX."""
    for kind in ("pdf", "svg"):
        axes[0].figure.savefig(tmp_path / f"plot.{kind}")
        assert (tmp_path / f"plot.{kind}").stat().st_size > 3000


def test_layers_as_measured(path, tmp_path):
    layers = layers_of(path)
    given = on(2)
    axes = pnc.plot_layers(layers, metrics=["nc1", "cdnv"], ax=given)
    assert list(axes) == list(given)
    for axis, metric in zip(axes, ("nc1", "cdnv"), strict=True):
        (line,) = axis.lines
        expected = [getattr(pnc.collapse_metrics(s), metric) for s in layers.values()]
        assert list(line.get_ydata()) == expected
        assert [t.get_text() for t in axis.get_xticklabels()] == list(layers)
    assert axes[1].get_title(loc="left") == "CDNV: class-distance normalised variance"
    metrics = {name: pnc.collapse_metrics(s) for name, s in layers.items()}
    (again,) = pnc.plot_layers(metrics, metrics=["nc1"], ax=on(1))
    assert list(again.lines[0].get_ydata()) == list(axes[0].lines[0].get_ydata())
    written(axes, tmp_path)


def test_predictions_stand_at_the_layer_that_follows(path):
    predictions = pnc.study.predict_layers(layers_of(path), **SETTING)
    (axis,) = pnc.plot_layers(predictions, metrics=["nc1"], ax=on(1))
    drawn = lines(axis)["predicted from the layer before"]
    assert list(drawn.get_xdata()) == [1, 2, 3]
    assert list(drawn.get_ydata()) == [p.predicted.nc1 for p in predictions.values()]
    measured = [p.measured.nc1 for p in predictions.values()]
    assert list(lines(axis)["measured"].get_ydata()) == measured
    assert axis.get_xticklabels()[-1].get_text() == "(next)"


def test_a_path_and_the_layers_within_it(path, tmp_path):
    c = calibration(path, [0, 1, 2])
    axes = pnc.plot_path(path, layers=c, metrics=("nc1", *TRACES), ax=on(3))
    nc1 = lines(axes[0])
    assert list(nc1["central path"].get_ydata()) == [m.nc1 for m in path.metrics]
    assert list(nc1["central path"].get_xdata()) == TIMES
    mark = nc1["layer2, measured"]
    assert list(mark.get_xdata()) == pytest.approx([1.0], rel=1e-3)
    assert list(mark.get_ydata()) == [c.measured["layer2"].nc1]
    for axis, name in zip(axes[1:], ("within", "between"), strict=True):
        traces = [getattr(path.statistics(i), name).trace() for i in range(4)]
        growth = [math.exp(2 * 0.05 * t) for t in TIMES]
        expected = [g * float(t) for g, t in zip(growth, traces, strict=True)]
        assert list(axis.lines[0].get_ydata()) == pytest.approx(expected)
    shorter = pnc.central_path_flow(path.reference, lambda_w=0.1, lambda_h=0.05, times=TIMES[:2])
    (axis,) = pnc.plot_path(shorter, layers=c, metrics=["nc1"], ax=on(1))
    assert set(lines(axis)) == {"central path", "layer1, measured"}  # layer 2 lies beyond it
    written(axes, tmp_path)


def test_a_cascade_by_its_complexity(path):
    found = pnc.cascade(path.reference, lambda_w=0.1, lambda_h=0.05, betas=[4.0, 2.0])
    (axis,) = pnc.plot_path(found, metrics=["cdnv"], ax=on(1))
    (line,) = axis.lines
    assert list(line.get_xdata()) == [0.25, 0.75]
    assert list(line.get_ydata()) == [s.metrics.cdnv for s in found.solutions]
    with pytest.raises(ValueError, match="a cascade has no scaled_within_trace"):
        pnc.plot_path(found, metrics=TRACES, ax=on(2))


def test_a_calibration_measured_path_and_rivals(path):
    c = calibration(path, [0, 1, 2, 3])
    axes = pnc.plot_comparison(c, metrics=("nc2_etf", "flow_time"), ax=on(2))
    nc2 = lines(axes[0])
    assert list(nc2["measured"].get_ydata()) == [m.nc2_etf for m in c.measured.values()]
    predicted = [m.nc2_etf for m in c.path.metrics.values()]
    assert list(nc2["central path"].get_ydata()) == predicted
    assert set(nc2) == {"measured", "central path", *c.predictions} - {"path"}
    (times,) = axes[1].lines
    assert list(times.get_ydata()) == [*c.times.values()]
    assert [t.get_text() for t in axes[0].get_xticklabels()] == list(c.measured)


def test_what_is_not_on_the_path_is_left_out(path):
    c = calibration(path, [1, 0, 2])
    assert math.isnan(c.times["layer0"])
    axes = pnc.plot_comparison(c, models=["path"], ax=on(4))
    for axis in axes:
        assert list(lines(axis)["central path"].get_xdata()) == [2]
        assert set(lines(axis)) == {"measured", "central path"}
        assert [t.get_text() for t in axis.get_xticklabels()] == ["layer1", "layer0", "layer2"]


def test_where_no_layer_is_placed_the_rivals_are_left(path):
    c = calibration(path, [1, 0])
    assert c.placed == []
    axes = pnc.plot_comparison(c, metrics=("nc1", "flow_time"), ax=on(2))
    assert {"measured", "shrinkage", "unchanged"} <= set(lines(axes[0]))
    assert "central path" not in lines(axes[0])
    assert not axes[1].lines


def test_a_comparison_with_its_intervals(path):
    table = pnc.compare_layers(layers_of(path), name="net", lambda_w=0.1, pairs=False)
    low, high = 0.9 * table["measured"], 1.1 * table["measured"]
    table["interval"] = low.expand_dims(bound=["low"]).combine_first(
        high.expand_dims(bound=["high"])
    )
    (axis,) = pnc.plot_comparison(table, metrics=["nc1"], ax=on(1))
    for model, label in (("path", "central path"), ("shrinkage", "shrinkage")):
        values = table["predicted"].sel(model=model, quantity="nc1").values[1:]
        np.testing.assert_array_equal(lines(axis)[label].get_ydata(), values)
    assert "optimum from the layer before" not in lines(axis)  # pairs were not asked for
    (bars,) = axis.collections
    ends = np.array(bars.get_segments())[:, :, 1]
    measured = table["measured"].sel(quantity="nc1").values
    np.testing.assert_allclose(ends, np.outer(measured, [0.9, 1.1]))


def test_without_axes_there_is_a_new_figure(path):
    from matplotlib import pyplot

    axes = pnc.plot_layers(layers_of(path))
    assert axes.shape == (4,)
    assert len({id(axis.figure) for axis in axes}) == 1
    assert axes[0].figure.number in pyplot.get_fignums()
    pyplot.close(axes[0].figure)


def test_a_whole_figure_has_a_title_and_one_legend(path):
    figure = whole(pnc.plot_path, path, metrics=ALONG, title="a title")
    assert figure.get_suptitle() == "a title"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["central path"]
    assert all(axis.get_legend() is None for axis in figure.axes)


def test_what_cannot_be_drawn_is_said(path):
    c = calibration(path, [0, 1, 2])
    with pytest.raises(ValueError, match="ax must hold one axes for each of nc1, cdnv, got 1"):
        pnc.plot_layers(layers_of(path), metrics=["nc1", "cdnv"], ax=on(1)[0])
    with pytest.raises(ValueError, match="metrics must name at least one"):
        pnc.plot_path(path, metrics=[])
    with pytest.raises(ValueError, match="layers must hold at least one"):
        pnc.plot_layers({})
    with pytest.raises(ValueError, match=r"models must be among measured, path.*got \['pair'\]"):
        pnc.plot_comparison(c, models=["pair"], ax=on(4))
    with pytest.raises(ValueError, match=r"metrics must be among .*nc1.*got \['nc9'\]"):
        pnc.plot_comparison(c, metrics=["nc9"], ax=on(1))

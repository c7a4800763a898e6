"""What the figures hold; how they look is for the eye."""

import math

import pytest
import torch

import perturb_nc as pnc
from perturb_nc.show.plots import plot_depth, plot_flow

TIMES = [0.0, 0.1, 1.0, 10.0]


@pytest.fixture(scope="module")
def path():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    x = torch.randn(60, 5, generator=generator, dtype=torch.float64) + 2 * torch.eye(3, 5)[labels]
    start = pnc.ClassStatistics.from_features(x, labels)
    return pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.05, times=TIMES)


def calibration(path, order):
    layers = {f"layer{i}": path.statistics(i) for i in order}
    return pnc.calibrate_depth(layers, lambda_w=0.1, lambda_h=0.05)


def lines(axis):
    return {line.get_label(): line for line in axis.lines}


def test_flow_draws_the_path_and_the_layers_within_it(path):
    traces = {"within": [4.0, 3.0, 2.0, 1.0], "between": [1.0, 2.0, 3.0, 4.0]}
    c = calibration(path, [0, 1, 2])
    figure = plot_flow(path, traces, c, title="a title")
    panels = {axis.get_title(loc="left"): axis for axis in figure.axes}
    nc1 = lines(panels[r"$\mathrm{NC1} = \mathrm{tr}(\Sigma_W \Sigma_B^\dagger) / K$"])
    assert list(nc1["central path"].get_ydata()) == [m.nc1 for m in path.metrics]
    assert list(nc1["central path"].get_xdata()) == TIMES
    mark = nc1["layer2, measured"]
    assert list(mark.get_xdata()) == pytest.approx([1.0], rel=1e-3)
    assert list(mark.get_ydata()) == [c.measured["layer2"].nc1]
    for name, sigma in {"within": "W", "between": "B"}.items():
        axis = panels[rf"$e^{{2\lambda_H t}}\,\mathrm{{tr}}\,\Sigma_{sigma}$"]
        assert list(axis.lines[0].get_ydata()) == traces[name]
    shorter = pnc.central_path_flow(path.reference, lambda_w=0.1, lambda_h=0.05, times=TIMES[:2])
    half = {name: values[:2] for name, values in traces.items()}
    labels = {t.get_text() for t in plot_flow(shorter, half, c, title="").legends[0].get_texts()}
    assert labels == {"central path", "layer1, measured"}  # layer 2 lies beyond it


def test_depth_draws_measured_path_and_rivals(path):
    c = calibration(path, [0, 1, 2, 3])
    figure = plot_depth(c, title="a title")
    panels = {axis.get_title(loc="left"): lines(axis) for axis in figure.axes}
    nc2 = panels["NC2: distance to a simplex ETF"]
    assert list(nc2["measured"].get_ydata()) == [m.nc2_etf for m in c.measured.values()]
    predicted = [m.nc2_etf for m in c.path.metrics.values()]
    assert list(nc2["central path"].get_ydata()) == predicted
    assert set(nc2) == {"measured", "central path", "shrinkage", "interpolation"}
    (times,) = figure.axes[-1].lines
    assert list(times.get_ydata()) == [0.0, *c.times.values()]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == list(c.measured)


def test_depth_leaves_out_what_is_not_on_the_path(path, tmp_path):
    c = calibration(path, [1, 0, 2])
    assert math.isnan(c.times["layer0"])
    figure = plot_depth(c, title="")
    for axis in figure.axes[:-1]:
        assert list(lines(axis)["central path"].get_xdata()) == [2]
    figure.savefig(tmp_path / "depth.png")
    assert (tmp_path / "depth.png").stat().st_size > 10_000

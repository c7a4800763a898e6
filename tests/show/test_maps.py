"""What the maps hold; how they look is for the eye."""

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.show.maps import plot_maps
from perturb_nc.study.sweep_plan import STATUSES

AXES = {"lambda_w": [0.03, 0.3, 3.0], "lambda_h": [0.05, 0.5, 5.0]}


@pytest.fixture(scope="module")
def dataset():
    statistics = random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics
    return pnc.sweep(statistics, **AXES, beta=[0.0, 0.2, 1.0])


def mesh(axis):
    (found,) = [c for c in axis.collections if isinstance(c, QuadMesh)]
    return np.asarray(found.get_array().filled(np.nan)).reshape(3, 3).T


def curves(axis):
    """Segments of the contours that are lines."""
    sets = [c for c in axis.collections if hasattr(c, "levels") and not c.filled]
    return [c for c in sets if any(len(path.vertices) for path in c.get_paths())]


def test_maps_hold_the_metric_and_the_ratio_of_its_derivatives(dataset, tmp_path):
    figure = plot_maps(dataset, metric="nc1_trace", betas=[0.19, 1.0], title="a title")
    above, below = figure.axes[:2], figure.axes[2:4]
    for axis, under, beta in zip(above, below, (0.2, 1), strict=True):
        part = dataset.sel(beta=beta)
        np.testing.assert_allclose(mesh(axis), part["nc1_trace"])
        ends = f"{float(part['nc1_trace'].min()):.3g} to {float(part['nc1_trace'].max()):.3g}"
        assert axis.get_title(loc="left") == f"β = {beta}: ÑC1 {ends}"
        slopes = part["nc1_trace_derivative"]
        by_h, by_w = (slopes.sel(parameter=name) for name in ("lambda_h", "lambda_w"))
        np.testing.assert_allclose(mesh(under), np.log10(abs(by_h / by_w)))
        share = float((abs(by_h) > abs(by_w)).mean())
        said = f"$\\lambda_H$ moves ÑC1 more in {share:.0%} of the settings"
        assert under.get_title(loc="left") == said
        assert under.get_xscale() == under.get_yscale() == "log"
        ratio = part["spectral_ratio"].values
        assert ratio.min() < 1 < ratio.max()
        assert len(curves(axis)) == 1  # r = 1
        changes = sum(float(s.min()) < 0 < float(s.max()) for s in (by_h, by_w))
        assert len(curves(under)) == changes
    figure.savefig(tmp_path / "maps.png")
    assert (tmp_path / "maps.png").stat().st_size > 10_000


def test_the_boundary_lies_where_r_is_one(dataset):
    bent = dataset.copy(deep=True)
    bent["spectral_ratio"] = np.sqrt(bent["lambda_w"]) + 0 * bent["spectral_ratio"]
    figure = plot_maps(bent, betas=[1.0], title="")
    (line,) = curves(figure.axes[0])
    points = np.concatenate([path.vertices for path in line.get_paths()])
    # Linear interpolation of √λ_W between 0.3 and 3.
    expected = 0.3 + 2.7 * (1 - 0.3**0.5) / (3**0.5 - 0.3**0.5)
    np.testing.assert_allclose(points[:, 0], expected, rtol=1e-4)


def test_collapse_to_zero_is_marked_where_w_is_zero(dataset):
    figure = plot_maps(dataset, betas=[0.0], title="")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "W = 0" in labels
    assert figure.axes[1].get_title(loc="left") == "no derivatives here"
    (edge,) = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(np.prod(edge.get_data(), axis=0), 1.0)  # λ_W λ_H = 1
    anchored = plot_maps(dataset.sel(beta=[0.2, 1.0]), title="")
    assert "W = 0" not in [text.get_text() for text in anchored.legends[0].get_texts()]


def test_a_cell_without_solution_is_crossed_out(dataset):
    bent = dataset.copy(deep=True)
    bent["status"][1, 2, 2] = STATUSES.index("failed")
    figure = plot_maps(bent, betas=[1.0], title="")
    for axis in figure.axes[:2]:
        (crosses,) = [line for line in axis.lines if line.get_marker() == "x"]
        assert np.array(crosses.get_data()).ravel().tolist() == [0.3, 5.0]
    assert "not converged (see status)" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_what_cannot_be_drawn_is_said(dataset):
    with pytest.raises(ValueError, match="metric must be one of nc1, nc1_trace, nc2_etf, cdnv"):
        plot_maps(dataset, metric="objective", title="")
    with pytest.raises(ValueError, match="got zipped settings"):
        plot_maps(dataset.stack(setting=["lambda_w", "beta"]), title="")
    with pytest.raises(ValueError, match="at least 2 values > 0 of lambda_h"):
        plot_maps(dataset.isel(lambda_h=[0]), title="")
    with pytest.raises(ValueError, match="betas must hold at least one"):
        plot_maps(dataset, betas=[], title="")
    with pytest.raises(ValueError, match="no setting of the sweep is finished"):
        plot_maps(dataset.assign(status=0 * dataset["status"]), title="")


def test_one_map_on_axes_of_ones_own(dataset):
    axes = Figure().subplots(1, 2)
    above = pnc.plot_map(dataset, metric="nc1_trace", beta=0.19, ax=axes[0])
    below = pnc.plot_map(dataset, metric="nc1_trace", sensitivity=True, ax=axes[1])
    assert above is axes[0]
    assert below is axes[1]
    part = dataset.sel(beta=0.2)
    np.testing.assert_allclose(mesh(above), part["nc1_trace"])
    slopes = part["nc1_trace_derivative"]  # the middle β by default
    by_h, by_w = (slopes.sel(parameter=name) for name in ("lambda_h", "lambda_w"))
    np.testing.assert_allclose(mesh(below), np.log10(abs(by_h / by_w)))
    said = [text.get_text() for text in above.get_legend().get_texts()]
    assert "r = 1: certified on the undotted side" in said
    assert not any("changes sign" in text for text in said)

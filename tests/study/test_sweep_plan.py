import json

import numpy as np
import pytest
from sweeps import CONVERGED, GRID

import perturb_nc as pnc
from perturb_nc.study.sweep_plan import METRICS


def test_zipped_settings_are_cells_of_the_grid(statistics, grid):
    settings = [(1e-3, 0.1, 5.0), (0.3, 1e-3, 0.3), (1e-2, 0.1, 1.0)]
    lists = dict(zip(GRID, zip(*settings, strict=True), strict=True))
    zipped = pnc.sweep(statistics, **lists, zipped=True, chunk=2)
    assert zipped["nc1"].dims == ("setting",)
    for i, setting in enumerate(settings):
        cell, expected = zipped.isel(setting=i), grid.sel(dict(zip(GRID, setting, strict=True)))
        assert tuple(float(cell[name]) for name in GRID) == setting
        for name in (*METRICS, "objective", "singular_values", "nc1_derivative"):
            np.testing.assert_allclose(cell[name], expected[name], rtol=1e-8, atol=1e-8)


def test_variables_say_what_they_are(statistics, grid):
    for variable in grid.data_vars.values():
        assert variable.attrs["units"] == "1"
        assert len(variable.attrs["long_name"]) > 5
    assert grid["nc1"].attrs["long_name"].startswith("NC1 = (1/K) tr(Σ_W Σ_B†)")
    flags = grid["status"].attrs
    meanings = dict(zip(flags["flag_values"], flags["flag_meanings"].split(), strict=True))
    assert meanings[CONVERGED] == "converged"
    assert json.loads(grid.attrs["arguments"])["beta"] == GRID["beta"]
    other = pnc.sweep(statistics.moved(statistics.means, 2 * statistics.within), **GRID)
    assert other.attrs["statistics_sha256"] != grid.attrs["statistics_sha256"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lambda_w": [0.1, 0.0]}, "lambda_w must be > 0, got 0.0"),
        ({"lambda_h": [-1.0]}, "lambda_h must be >= 0, got -1.0"),
        ({"beta": [float("nan")]}, "beta must be finite, got nan"),
        ({"beta": []}, "beta must be a number or a non-empty list"),
        ({"beta": np.ma.masked_array([1.0, 2.0], mask=[0, 1])}, "beta must not be masked, got 1"),
        ({"beta": "many"}, "beta must be a number or a list of them, got 'many'"),
        ({"beta": [1.0, 1.0]}, "beta must hold distinct values"),
        ({"lambda_h": [0.0, 1.0], "beta": [0.0, 1.0]}, "lambda_h and beta must not both be 0"),
        ({"zipped": True, "beta": [1.0, 2.0]}, "zipped values must be lists of one length"),
        ({"flow_times": [1.0, 0.5]}, "flow_times must increase"),
        ({"chunk": 0}, "chunk must be >= 1, got 0"),
        ({"tol": 0.0}, "tol must be > 0, got 0.0"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_written(statistics, tmp_path, changed, message):
    arguments = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0, **changed}
    with pytest.raises(ValueError, match=message):
        pnc.sweep(statistics, **arguments, store=tmp_path / "sweep.zarr")
    assert list(tmp_path.iterdir()) == []

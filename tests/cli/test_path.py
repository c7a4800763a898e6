import json

import numpy as np
import pytest

import perturb_nc as pnc
from perturb_nc.study.depth import PLACING


def test_flow_is_central_path_flow_with_the_layers_on_it(network, run, tmp_path):
    options = ("--lambda-w", 0.1, "--lambda-h", 0.05, "--until-time", 2, "--points", 9)
    code, out, err = run("flow", network, *options, "-o", tmp_path / "o")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "o" / "path.json").read_text())
    times = record["times"]
    assert (times[0], times[1], times[-1], len(times)) == (0, pytest.approx(0.002), 2, 9)
    start = pnc.load_layers(network)["a"]
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.05, times=times)
    assert record["metrics"]["nc1"] == pytest.approx([m.nc1 for m in path.metrics])
    last, growth = path.statistics(8), np.exp(2 * 0.05 * 2)
    assert record["scaled_within_trace"][8] == pytest.approx(growth * last.within.trace().item())
    assert record["scaled_between_trace"][8] == pytest.approx(growth * last.between.trace().item())
    assert record["status"] == "FINISHED"
    assert record["cost"]["steps"] == path.cost.steps
    assert {n: v["time"] for n, v in record["layers"].items()} == pytest.approx(
        {"b": 0.5, "c": 1.0, "d": 40.0}, rel=1e-3
    )
    assert "placed by ÑC1 in the span: b t = 0.5, c t = 1, d t = 40" in out
    assert "left out, not of the start layer's dimension: head" in out
    assert f"{path.metrics[-1].nc1:.3g}" in out
    assert (tmp_path / "o" / "flow.png").stat().st_size > 10_000
    code, out, _ = run("flow", network, *options, "-o", tmp_path / "o", "--json")
    assert json.loads(out) == record
    written = sorted(tmp_path.rglob("*"))
    assert json.loads(run("flow", network, *options, "--json")[1]) == record
    assert "wrote" not in run("flow", network, *options)[1]
    assert sorted(tmp_path.rglob("*")) == written  # nothing unasked
    code, out, _ = run(
        "flow", network, *options, "--beta", 1, "--reference", "b", "--json", "-o", tmp_path
    )
    record = json.loads(out)
    assert (record["layer"], record["beta"], record["layers"]) == ("b", 1.0, {})


def test_depth_is_calibrate_depth(network, run, tmp_path):
    options = ("--lambda-w", 0.1, "--lambda-h", 0.05)
    code, out, err = run("depth", network, *options, "-o", tmp_path / "o")
    assert (code, err) == (0, "")
    record = json.loads((tmp_path / "o" / "depth.json").read_text())["network"]
    assert record["times"] == pytest.approx({"b": 0.5, "c": 1.0, "d": 40.0}, rel=1e-3)
    assert record["metric"] == PLACING
    assert record["status"] == "CONVERGED"
    assert record["left_out"] == ["head"]
    assert record["judged"] == ["b", "c"]  # the last is given to one of the rivals
    errors = record["median_log_error"]
    assert errors["path"] < 1e-4 < 1e-3 < min(errors["shrinkage"], errors["interpolation"])
    line = f"median |log error| over b, c: path {errors['path']:.3g}, shrinkage"
    assert line in out
    assert "not of the start layer's dimension: head" in out
    assert (tmp_path / "o" / "depth-network.png").stat().st_size > 10_000
    written = sorted(tmp_path.rglob("*"))
    code, out, _ = run("depth", network, *options, "--json")
    assert json.loads(out)["network"] == record
    assert "wrote" not in run("depth", network, *options)[1]
    assert sorted(tmp_path.rglob("*")) == written  # nothing unasked
    nc2 = record["predicted"]["shrinkage"]["c"]["nc2_etf"]
    assert nc2 == record["measured"]["a"]["nc2_etf"]  # Σ_W alone shrinks: the means stay


@pytest.mark.slow  # it fits a path that goes far
def test_depth_fits_starts_and_marks_what_is_not_on_the_path(network, run, tmp_path):
    options = ("--lambda-h", 0.05, "-o", tmp_path, "--json")
    record = json.loads(run("depth", network, "--fit", "c", *options)[1])["network"]
    assert record["lambda_w"] == pytest.approx(0.1, rel=5e-2)
    assert record["judged"] == ["b"]
    layers = pnc.load_layers(network)
    pnc.save_layers({n: layers[n] for n in ("b", "a", "c")}, tmp_path / "turned.safetensors")
    code, out, _ = run("depth", tmp_path / "turned.safetensors", "--lambda-w", 0.1, "-o", tmp_path)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["on", "the", "path", *["–"] * 6] in rows
    record = json.loads((tmp_path / "depth.json").read_text())["turned"]
    assert record["times"]["a"] is None
    assert list(record["predicted"]["path"]) == ["c"]
    assert "over no layer: path –" in out

"""`perturb-nc bench`, and what report and explorer show of it."""

import json

import pytest
import torch
from comparisons import bench
from matplotlib.figure import Figure
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.layer_files import save_joint
from perturb_nc.show.bench_tables import record
from perturb_nc.storage import json_text
from perturb_nc.study.comparison import bench_of, load_comparison

SHORT = ("--time-limit", 1e-9)  # no λ_W is tried: what takes long is tested where it lives


@pytest.fixture
def layers():
    return {n: random_problem(seed=i, dim=6).reduced.statistics for i, n in enumerate("abcd")}


@pytest.fixture
def file(layers, tmp_path):
    pnc.save_layers(layers, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def test_the_bench_says_what_a_network_follows(file, run, tmp_path):
    output = tmp_path / "o"
    code, out, err = run("bench", file, "-o", output, *SHORT)
    assert code == 0
    assert "follows equi_separation" in out or "follows load_curve" in out
    assert "way of the class means to d" in out
    assert "stopped at the time limit" in out
    assert "What each sees" in out
    assert "net, bench" in err
    assert (output / "bench-net.png").stat().st_size > 1000
    found = json.loads((output / "bench.json").read_text())["net"]
    assert found["status"] == "TIME_LIMIT"
    assert found["theories"]["chain"] == {
        "sees": found["theories"]["chain"]["sees"], "told": "nothing", "in_span": None,
        "out_of_span": None, "predicted": 0, "worst": None,
    }  # fmt: skip
    assert found["theories"]["unchanged"]["predicted"] == 3


def test_joint_statistics_are_for_the_straight_line(layers, file, run, tmp_path, monkeypatch):
    monkeypatch.setattr("perturb_nc.show.bench.figure", lambda _, *, title: Figure((1, 1)))
    first, last = layers["a"], layers["d"]
    joint = JointStatistics(first, last.moved(last.means, last.within), torch.zeros(6, 6).double())
    save_joint({("a", "d"): joint}, tmp_path / "joint.safetensors")
    options = ("--joint", tmp_path / "joint.safetensors", "-o", tmp_path / "o", *SHORT, "--json")
    code, out, _ = run("bench", file, *options)
    assert code == 0
    assert json.loads((tmp_path / "o" / "bench.json").read_text()) == json.loads(out)
    written = sorted(tmp_path.rglob("*"))
    options = (*options[:2], *SHORT)
    assert "wrote" not in run("bench", file, *options)[1]
    assert sorted(tmp_path.rglob("*")) == written  # nothing unasked
    # Not at the last layer, whose place on the line would be given.
    assert json.loads(out)["net"]["theories"]["straight_line"]["predicted"] == 2
    code, _, err = run("bench", file, tmp_path / "other.safetensors", *options)
    assert code == 2
    assert "--joint is of one network, got 2 files" in err


def test_report_and_explorer_show_the_bench(file, run, tmp_path, monkeypatch):
    page, written = tmp_path / "page.html", []
    monkeypatch.setattr("perturb_nc.show.report.page.write_report", lambda c, _: written.extend(c))
    options = ("--no-pairs", "-o", page, "--save", tmp_path / "kept", "--lambda-w", 0.1)
    code, _, err = run("report", file, *options, "--bench", *SHORT)
    assert (code, "net, bench" in err) == (0, True)
    kept = load_comparison(tmp_path / "kept" / "net.json")
    for comparison in (written[0], kept):
        assert bench_of(comparison).attrs["metric"] == "nc1_span"
    code, _, err = run("report", file, *options, *SHORT)
    assert (code, "--time-limit is of the bench" in err) == (2, True)
    code, _, err = run("report", tmp_path / "kept" / "net.json", "-o", page, "--bench")
    assert (code, "bench must be left out: every RUN" in err) == (2, True)

    explore = pytest.importorskip("perturb_nc.show.explore.page", reason="needs Dash")
    (tmp_path / "bench.json").write_text(json_text({"net": record(bench())}))
    heads = []
    monkeypatch.setattr(explore, "build_app", lambda *_, said, **rest: heads.extend(said) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("explore", file, "--bench", tmp_path / "bench.json", "--port", 0)
    assert heads[0].startswith("follows central_path (0.02)")
    (tmp_path / "other.json").write_text("{}")
    code, _, err = run("explore", file, "--bench", tmp_path / "other.json")
    assert (code, "holds no bench of net; write one" in err) == (2, True)


def test_errors_are_one_line(file, run, tmp_path):
    code, _, err = run("bench", file, "--metric", "x", "-o", tmp_path / "o")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "net: metric must be one of" in err
    code, _, err = run("bench", file, file, "-o", tmp_path / "o")
    assert "files must differ in name" in err
    code, _, err = run("bench", file, "--time-limit", -1, "-o", tmp_path / "o")
    assert "time_limit must be > 0" in err

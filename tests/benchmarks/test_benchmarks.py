"""The benchmarks' schema, and that every method in them integrates the same flow."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import (  # noqa: E402
    cross_entropy,
    extraction,
    extraction_network,
    floor,
    flow,
    many_classes,
    optimum,
    optimum_peers,
    page,
    peers,
)


@pytest.fixture(scope="module")
def case():
    return flow.make_case("tiny", flow.QUICK, (24, 4), spread=3.0)


@pytest.mark.parametrize("method", [peers.flow, peers.flow_from_features, *peers.PEERS.values()])
def test_all_methods_agree(method, case):
    expected = peers.full_dop853(case, 1e-11).means
    try:
        found = method(case, 1e-8)
    except peers.NotAvailable as reason:
        pytest.skip(str(reason))
    torch.testing.assert_close(found.means, expected, rtol=1e-5, atol=1e-5)
    assert found.evaluations > 0


def test_another_flow_is_told_apart(case):
    expected = peers.full_dop853(case, 1e-9).means
    other = peers.flow(replace(case, lambda_w=1.01 * case.lambda_w), 1e-9).means
    assert flow._distance(other, expected) > 1e-5


def test_what_is_missing_or_too_large_is_said(case, monkeypatch):
    monkeypatch.setattr(peers, "odeint", None)
    row = flow._at_accuracy(peers.full_dopri5, case, case.statistics.means, flow.QUICK)
    assert row["seconds"] is None
    assert "torchdiffeq is not installed" in row["note"]
    monkeypatch.setattr(peers, "RADAU_LIMIT", 10)
    row = flow._at_accuracy(peers.full_radau, case, case.statistics.means, flow.QUICK)
    assert "dense Jacobian holds (dN)² = 9.2e+03 numbers" in row["note"]


def test_a_method_that_misses_the_accuracy_has_no_time(case):
    row = flow._at_accuracy(peers.flow, case, 2 * case.statistics.means, flow.QUICK)
    assert row["seconds"] is None
    assert row["note"] == "not accurate enough at rtol 1e-09"


def test_the_quick_benchmark_writes_its_tables(tmp_path):
    command = [sys.executable, "-m", "benchmarks.flow", "--quick", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result = json.loads((tmp_path / "flow.json").read_text(encoding="utf8"))
    assert list(result) == ["config", "machine", "cases", "scaling"]
    assert result["machine"]["cpu"]
    assert result["machine"]["threads"] == 1
    assert [case["case"] for case in result["cases"]] == ["small", "class means", "random"]
    for case in result["cases"]:
        assert case["reference_against_dop853"] < 1e-8
        assert [row["method"] for row in case["methods"]][2:] == list(peers.PEERS)
        assert case["methods"][0]["ratio"] == 1
        for row in case["methods"]:
            assert row["note"]
            if row["seconds"] is not None:
                assert row["error"] <= result["config"]["accuracy"]
                assert row["evaluations"] > 0
    assert [row["num_samples"] for row in result["scaling"]] == [100, 1000]
    table = (tmp_path / "flow.md").read_text(encoding="utf8")
    for name in (flow.OURS, *peers.PEERS):
        assert table.count(f"| {name} |") == 3


def test_the_loops_find_the_same_statistics_and_the_tables_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["extraction", "--quick", "--output", str(tmp_path)])
    extraction.main()
    result = json.loads((tmp_path / "extraction.json").read_text(encoding="utf8"))
    assert [case["case"] for case in result["cases"]] == ["MLP", "ResNet, pooled"]
    for case in result["cases"]:
        assert [row["method"] for row in case["methods"]] == list(extraction.METHODS)
        assert case["methods"][0]["ratio"] == 1
        assert max(row["difference"] for row in case["methods"]) < 1e-6
        held = [row["features_held"] for row in case["methods"]]
        # Nothing, the largest layer, all layers, nothing; float32.
        dims = list(case["dims"].values())
        kept = [4 * case["num_samples"] * size for size in (max(dims), sum(dims))]
        assert held == [0, *kept, 0]
    for row, classes in zip(result["networks"], (10, 100), strict=True):
        assert (row["num_samples"], row["num_classes"]) == (200, classes)
        assert row["dims"] == {"stem": 8} | {f"blocks.{i}": 8 * 2 ** (i // 2) for i in range(8)} | {
            "head": classes
        }
        assert min(row["seconds"], row["forward_seconds"]) > 0
    table = (tmp_path / "extraction.md").read_text(encoding="utf8")
    assert table.count("| collect_statistics |") == 2
    assert table.count("| 200 | 1") == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak")
def test_memory_is_that_at_the_peak():
    def used(size):
        return extraction_network.watched(lambda: torch.ones(size, dtype=torch.uint8).amax())[1]

    few, many = used(2**10), used(2**27)
    assert 0.9 * 2**27 < many - few < 1.3 * 2**27


def test_many_classes_are_as_sparse_as_said():
    features, labels = many_classes.sparse_features(many_classes.QUICK)
    assert int((features == 0).all(0).sum()) == many_classes.QUICK.dead
    assert 0.68 < (features == 0).double().mean() < 0.75
    assert features.min() == 0
    assert 4 < features.max() <= 6
    assert labels.bincount().tolist() == [10] * 50


def test_many_classes_reach_both_tolerances():
    result = many_classes.run(replace(many_classes.QUICK, num_classes=10, samples=100, dim=24))
    for row, tol in zip(result["cases"], (1e-10, 1e-6), strict=True):
        assert row["status"] == "CONVERGED"
        assert row["gradient_norm"] <= row["tol"] == tol
        assert row["products"] > 0
    assert many_classes.as_markdown(result).count("| CONVERGED |") == 2


def test_other_statistics_are_told_apart():
    case = extraction.cases(extraction.QUICK)[0]
    wanted = extraction.all_kept(case)[0]
    other = extraction.all_kept(extraction.cases(replace(extraction.QUICK, seed=1))[0])[0]
    assert extraction.difference(other, wanted) > 0.01


@pytest.mark.slow
def test_every_peer_finds_the_optimum(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["optimum", "--quick", "--output", str(tmp_path)])
    optimum.main()
    result = json.loads((tmp_path / "optimum.json").read_text(encoding="utf8"))
    assert [case["case"] for case in result["cases"]] == list(optimum.KINDS)
    for case in result["cases"]:
        assert [row["method"] for row in case["methods"]] == [optimum.NAME, *optimum_peers.PEERS]
        for row in case["methods"]:
            assert row["gradient_norm"] <= result["config"]["tolerance"]
            assert row["seconds"] > 0
            assert [s for s, _ in row["trace"]] == sorted(s for s, _ in row["trace"])
    (batch,) = result["batches"]
    assert batch["settings"] == batch["converged"] == 8
    assert batch["difference_of_objective"] < 1e-9
    table = (tmp_path / "optimum.md").read_text(encoding="utf8")
    assert all(table.count(f"| {n} |") == len(optimum.KINDS) for n in optimum_peers.PEERS)


def test_a_peer_out_of_time_is_reported_as_such():
    config = replace(optimum.QUICK, limit=0.0, tolerance=1e-12)
    case = optimum.make_case("random", 60, config)
    row = optimum._peer(optimum_peers.alternating, case, config)
    assert row["seconds"] is None
    assert row["gradient_norm"] > 1e-12


def test_moves_of_the_page_are_timed_by_slider(tmp_path, monkeypatch):
    explore = pytest.importorskip("benchmarks.explore", reason="needs the extra `explore`")
    settings = [stops for slider, stops in explore.dragged(explore.QUICK) if slider]
    assert len({tuple(stops.values()) for stops in settings}) == len(settings) == 8
    monkeypatch.setattr(sys, "argv", ["explore", "--quick", "--output", str(tmp_path)])
    explore.main()
    result = json.loads((tmp_path / "explore.json").read_text(encoding="utf8"))
    assert [case["dim"] for case in result["cases"]] == [40]
    for case in result["cases"]:
        for kind in explore.KINDS:
            assert case[kind]["moves"] == 8
            assert 0 < case[kind]["median"] <= case[kind]["worst"]
            assert list(case[kind]["by_slider"]) == list(explore.SCALES)
    assert (tmp_path / "explore.md").read_text(encoding="utf8").count("| drag |") == 1


def test_cross_entropy_goes_as_far_as_its_peer():
    result = cross_entropy.run(cross_entropy.QUICK)
    (row,) = result["cases"]
    assert row["lbfgs"]["arrived"]
    assert row["gradient_norm"] <= cross_entropy.QUICK.tolerance
    assert row["seconds_as_far_as_lbfgs"] > 0
    assert "times as long" in cross_entropy.as_markdown(result)


def test_the_floor_counts_what_was_done():
    own = replace(floor.QUICK, optima=((64, 3, "near collapse"),), repetitions=1, samples=300)
    row = floor.optimum_row(*own.optima[0], own)
    assert row["status"] == "CONVERGED"
    assert row["operations"] > 64**3 / 3  # at least the factorisation
    flow_row = floor.flow_row("small", 12, 3.0, 1e-3, replace(own, time=0.1))
    assert flow_row["seconds"] > 0
    assert "evaluations of W*" in flow_row["counted"]


def test_one_page_has_every_result_and_says_what_is_missing(tmp_path):
    text = page.as_markdown(page.RESULTS, {"deep_ufm": "ModuleNotFoundError: no such peer"})
    assert "`benchmarks.deep_ufm` did not run: ModuleNotFoundError: no such peer" in text
    committed = page.PAGE.read_text(encoding="utf8")
    assert page.as_markdown(page.RESULTS, {}) == committed, "run `python -m benchmarks.page --only`"
    for name in page.NAMES:
        assert f"| {name} |" in text or f"benchmarks.{name}" in text
    empty = page.as_markdown(tmp_path, {})
    assert empty.count("has not been run.") == len(page.NAMES)


def test_a_benchmark_that_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr(page.sys, "executable", "/bin/false")
    assert page.run("flow", quick=True) == "ended with exit status 1"

"""Networks trained on cross-entropy: the record of a pair, and what is committed."""

import json
import sys
from pathlib import Path

import pytest
import torch

import perturb_nc as pnc

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from experiments import cross_entropy  # noqa: E402

FOLDER = ROOT / "experiments" / "results" / "cross_entropy"


def layers():
    """A layer, and what cross-entropy with λ_W = 0.03 makes of it at β = 0.4."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(36) % 3
    noise = 0.4 * torch.randn(36, 5, generator=generator, dtype=torch.float64)
    x = torch.eye(3, 5, dtype=torch.float64)[labels] + noise
    x = x / x.square().sum(1).mean().sqrt()
    problem = pnc.CrossEntropyProblem(x, labels, lambda_w=0.03, lambda_h=0.0, beta=0.4)
    h = pnc.minimize(problem, tol=1e-12).features(x, labels)
    return pnc.LayerSamples(x, labels), pnc.LayerSamples(h, labels)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_pair_made_by_the_model_is_found_and_predicted():
    before, after = layers()
    config = cross_entropy.Config(samples=36)
    record = cross_entropy.pair(config, before, after, 0.01)
    measured = record["measured"]
    known, fit = (record["cross-entropy"][how] for how in ("known", "fit"))
    assert known["lambda_w"] == pytest.approx(0.03)
    assert known["beta"] == pytest.approx(0.4, rel=2e-3)
    assert (fit["lambda_w"], fit["beta"]) == pytest.approx((0.03, 0.4), rel=1e-5)
    assert (fit["at_bound"], fit["fit_status"]) == ({}, "CONVERGED")
    for name in cross_entropy.COMPARED:
        assert known[name] == pytest.approx(measured[name], rel=2e-3)
    assert record["squared"]["fit"]["residual"] > 0.01
    assert record["unchanged"]["growth"] == 1
    assert record["shrinkage"]["nc1"] == pytest.approx(measured["nc1"])
    network = {"name": "made", "weight_decay": 0.01, "pairs": {"b": record}}
    rows = cross_entropy.table([network]).splitlines()
    assert "| made | cross-entropy, fit | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0.00 | 0 of 1 |" in (
        "\n".join(rows)
    )
    assert rows[-1].startswith("With Gaussian samples")


def test_stand_ins_have_the_statistics_exactly():
    statistics = layers()[0].statistics
    own = cross_entropy.stand_in(statistics, 60, 0)
    assert len(own.labels) == 60
    torch.testing.assert_close(own.statistics.means, statistics.means)
    torch.testing.assert_close(own.statistics.within, statistics.within)


def written_by(result):
    return f"{cross_entropy.table(result['networks'])}\n{cross_entropy.two_table(result['two'])}"


@pytest.mark.slow
def test_the_quick_run_writes_its_table(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["cross_entropy", "--quick", "--output", str(tmp_path)])
    cross_entropy.main()
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf8"))
    assert [*result["networks"][0]["pairs"]] == ["blocks.0", "blocks.1"]
    text = (tmp_path / "table.md").read_text(encoding="utf8")
    assert text == written_by(result)


def test_the_committed_table_is_that_of_the_committed_result():
    result = json.loads((FOLDER / "result.json").read_text(encoding="utf8"))
    written = (FOLDER / "table.md").read_text(encoding="utf8")
    assert written_by(result) == written
    page = (ROOT / "docs" / "cross_entropy.md").read_text(encoding="utf8")
    shown = cross_entropy.summary(result["networks"]).splitlines()
    shown += cross_entropy.two_table(result["two"]).splitlines()[2:]  # the page has its own words
    assert [line for line in shown if line not in page] == []

import json

import pytest

import perturb_nc as pnc
from perturb_nc.cli import demo_run as demo
from perturb_nc.networks import TrainingConfig


def test_demo_writes_what_it_names_and_resumes(run, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "BLOCKS", 2)
    monkeypatch.setattr(demo, "TRAINING", TrainingConfig(epochs=4, weight_decay=5e-3))
    code, out, _ = run("demo", "-o", tmp_path)
    assert code == 0
    for name in ("statistics.safetensors", "predictions.json", "layers.png", "report.html"):
        assert f"wrote {tmp_path / name}" in out
        assert (tmp_path / name).stat().st_size > 1000
    record = json.loads((tmp_path / "predictions.json").read_text())
    assert record["hyperparameters"]["lambda_w"] == pytest.approx(0.05)
    assert list(record["layers"]) == ["embed", "blocks.0", "blocks.1"]
    measured = pnc.load_layers(tmp_path / "statistics.safetensors")["blocks.1"]
    expected = pnc.collapse_metrics(measured).nc1
    assert record["layers"]["blocks.1"]["measured"]["nc1"] == expected
    assert record["layers"]["blocks.1"]["measured"]["nc3_duality"] > 0
    assert out.count("predicted") == 3
    before = (tmp_path / "predictions.json").read_text()
    assert run("demo", "-o", tmp_path, "--json")[0] == 0  # from the checkpoint
    assert (tmp_path / "predictions.json").read_text() == before

"""`perturb-nc measure`: a model in a script of one's own."""

import json

import pytest
import torch

import perturb_nc as pnc

SCRIPT = """
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
batches = [(torch.randn(30, 4), torch.arange(30) % 3) for _ in range(2)]


def make_loader():
    return batches


if __name__ == "__main__":
    raise SystemExit("trained")
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    return path


def test_a_model_in_a_script_is_measured(script, run):
    out = script.with_name("layers.safetensors")
    words = ("measure", f"{script}:model", f"{script}:make_loader", "-o", out)
    code, said, err = run(*words)
    assert code == 0
    assert said.splitlines() == [f"wrote {out}: 3 layers"] + [
        f"{name}: d = {d}, N = 60" for name, d in (("0", 6), ("1", 6), ("2", 3))
    ]
    assert "2/2" in err
    layers = pnc.load_layers(out)
    namespace = {"__name__": "a script"}
    exec(script.read_text(), namespace)
    expected = pnc.collect_statistics(namespace["model"], namespace["batches"])
    assert layers["1"].means.equal(expected["1"].means)
    code, said, _ = run(*words, "--layer", "0", "--at", "input", "--json")
    assert json.loads(said)["layers"] == {"0": {"dim": 4, "samples": 60}}


def test_checkpoints_are_measured_epoch_by_epoch(script, run, tmp_path):
    (tmp_path / "runs").mkdir()
    namespace = {"__name__": "a script"}
    exec(script.read_text(), namespace)
    for epoch in (1, 2):
        torch.save(namespace["model"].state_dict(), tmp_path / "runs" / f"epoch{epoch}.pt")
    out = tmp_path / "metrics.jsonl"
    words = ("measure", f"{script}:model", f"{script}:batches", "--checkpoints", tmp_path / "runs")
    code, said, _ = run(*words, "-o", out, "--layer", "1")
    assert (code, said) == (0, f"wrote {out}: 2 checkpoints\n")
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2]
    assert list(records[0]["layers"]) == ["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train.py:model", "train.py:batches", "-o", "x.npz"),
            "--output must end in .safetensors",
        ),
        (("train.py", "train.py:batches", "-o", "x.safetensors"), "model must be SCRIPT.py:NAME"),
        (("math:pi", "math:e", "-o", "x.safetensors"), "math:pi is a float"),
        (("train.py:model", "math:pi", "-o", "x.safetensors"), "loader must give (inputs, labels)"),
        (("none.py:m", "train.py:batches", "-o", "x.safetensors"), "no script at none.py"),
        (("train.py:net", "train.py:batches", "-o", "x.safetensors"), "train.py has no 'net'; it"),
        (("no_such_module:m", "x:y", "-o", "x.safetensors"), "there is no module 'no_such_module'"),
        (
            ("train.py:model", "train.py:batches", "-o", "x.csv", "--checkpoints", "none"),
            "no folder at none",
        ),
        (
            ("train.py:model", "train.py:batches", "-o", "x.safetensors", "--layer", "head"),
            "layers must name modules, got 'head'",
        ),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(arguments, message, script, run, monkeypatch):
    monkeypatch.chdir(script.parent)
    code, out, err = run("measure", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("perturb-nc:") == 1
    assert not list(script.parent.glob("x.*"))

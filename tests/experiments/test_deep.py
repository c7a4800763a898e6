"""The quick runs of the experiments on the deep model, and its benchmark."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def quick(name, output, folder="experiments"):
    command = [sys.executable, "-m", f"{folder}.{name}", "--quick", "--output", str(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return output


def parts(path):
    result = json.loads(path.read_text(encoding="utf8"))
    assert result["manifest"]["versions"]["torch"]
    return result["parts"]


@pytest.mark.slow
def test_binary_dnc(tmp_path):
    found = parts(quick("binary_dnc", tmp_path / "x.json"))
    descent = found["descent"]
    # Of these seeds one loses two samples for good: all their neurons go off. L-BFGS loses none.
    excess = [f - best for f, best in zip(descent["descent"], descent["optimum"], strict=True)]
    assert [abs(e) < 1e-6 for e in excess[:3]] == [True, True, False]
    assert max(abs(e) for e in excess[3:]) < 1e-4
    rest = zip(found["fast"]["lbfgs"], descent["optimum"], strict=True)
    assert max(abs(f - best) for f, best in rest) < 1e-8
    assert [row["depth"] for row in descent["history"]] == [2, 3]
    below, above = found["threshold"]["rows"]
    assert below["best"] == pytest.approx(below["optimum"], abs=1e-8)
    assert below["optimum"] < above["optimum"] == above["best"] == 0.5
    best, linear = found["linear"]["optimum"], found["linear"]["descent"]
    assert best < min(linear) < max(linear) < best + 0.02  # 1000 steps are not enough


@pytest.mark.slow
def test_low_rank_bias_and_resuming(tmp_path):
    path = tmp_path / "x.json"
    found = parts(quick("low_rank_bias", path))
    four, six, two = found.values()
    assert two["best"] == pytest.approx(two["collapse"], rel=1e-4)
    assert four["polished"] == pytest.approx([four["collapse"]] * 4, rel=1e-2)
    assert six["refined"] <= six["strongly_regular"] < six["collapse"]
    # What is finished is not done again, and a part that is missing is.
    record = json.loads(path.read_text(encoding="utf8"))
    record["parts"] = {"K=4,width=20": "as it was"}
    path.write_text(json.dumps(record), encoding="utf8")
    again = parts(quick("low_rank_bias", path))
    assert again["K=4,width=20"] == "as it was"
    assert again["K=6,width=12"]["polished"] == six["polished"]


def test_width_and_decay(tmp_path):
    found = parts(quick("width_and_decay", tmp_path / "x.json"))
    narrow, wide = (found[f"width:K=3,d={d}"][0] for d in (4, 12))
    assert wide["at_collapse"] == 4 > narrow["at_collapse"]
    assert wide["ranks"] == [[3] * 4] * 4
    assert [row["decay"] for row in found["decay:K=3"]] == [4e-3, 6e-2]


def test_trained_head(tmp_path):
    (part,) = parts(quick("trained_head", tmp_path / "x.json")).values()
    first, last = part["history"][0], part["history"][-1]
    assert last["accuracy"] == 1
    assert 0 < last["excess"] < 0.5 * first["excess"]  # the closed form is a bound
    assert last["layers"][-1]["dnc1"] < 0.1 < first["layers"][-1]["dnc1"]


def test_benchmark(tmp_path):
    quick("deep_ufm", tmp_path, folder="benchmarks")
    result = json.loads((tmp_path / "deep_ufm.json").read_text(encoding="utf8"))
    assert all(row["difference"] < 1e-12 for row in result["methods"])
    assert [row["runs"] for row in result["methods"]] == [2, 1, 8, 8]
    assert "gradient_descent" in (tmp_path / "deep_ufm.md").read_text(encoding="utf8")

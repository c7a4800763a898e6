"""What the README and the Makefile promise, and the committed results."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.ticker import FixedFormatter

ROOT = Path(__file__).parent.parent


def test_the_readme_example_runs_as_written(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(example.strip().splitlines()) <= 12
    exec(compile(example, "README.md", "exec"), {})
    out = capsys.readouterr().out
    assert "nc1_trace" in out
    assert "CONVERGED global optimum, r = " in out


def test_the_readme_names_make_targets_and_files_that_exist():
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    used = set(re.findall(r"`make ([a-z ]+)`|^    make ([a-z]+)", readme, re.MULTILINE))
    for target in {word for pair in used for text in pair for word in text.split()}:
        assert target in targets, target
    for link in re.findall(r"\]\(([^)]+)\)", readme):
        assert (ROOT / link).exists(), link
    assert "make test" in (ROOT / ".ci" / "run").read_text(encoding="utf8")


def test_quick_experiment_agrees_with_itself(tmp_path):
    output = tmp_path / "spectrum.json"
    command = [sys.executable, "-m", "experiments.near_collapse_spectrum", "--quick"]
    command += ["--output", str(output)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result = json.loads(output.read_text(encoding="utf8"))
    assert result["manifest"]["config"]["samples_per_class"] == 3
    assert result["manifest"]["versions"]["torch"]
    for curve in result["curves"]:
        np.testing.assert_allclose(curve["numerical"], curve["exact"], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_quick_depth_calibration_predicts_what_it_was_not_fitted_on(tmp_path):
    command = [sys.executable, "-m", "experiments.depth_calibration", "--quick"]
    command += ["--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    rows = json.loads((tmp_path / "calibrations.json").read_text(encoding="utf8"))["rows"]
    assert [row["fitted"] for row in rows] == [False, True]
    fitted = rows[1]["errors"]
    assert rows[1]["placed"]
    for name, error in fitted["path"]["nc1"].items():
        assert name in rows[1]["held_out"]
        assert error < fitted["shrinkage"]["nc1"][name]
    assert max(fitted["path"]["nc1_trace"].values()) < 1e-6  # it was placed by this one
    assert (tmp_path / "table.md").read_text(encoding="utf8").count("digits-res") == 2


FIGURES = [p for p in sorted((ROOT / "paper_figs").glob("*.py")) if p.stem != "style"]
SOON_DRAWN = {"binary_dnc", "every_layer", "figure1_spectrum", "low_rank_bias", "public_networks"}


@pytest.mark.parametrize(
    "script",
    [p if p.stem in SOON_DRAWN else pytest.param(p, marks=pytest.mark.slow) for p in FIGURES],
    ids=lambda p: p.stem,
)
def test_figures_are_drawn_from_committed_results(script, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(script.parent)
    module = runpy.run_path(str(script))
    result = json.loads(module["RESULT"].read_text(encoding="utf8"))
    figure = module["draw"](result)
    module["write"](figure, str(tmp_path / script.name))
    for axis in figure.axes:
        alike = axis.get_shared_y_axes().get_siblings(axis)
        named = figure.get_supylabel() or any(other.get_ylabel() for other in alike)
        words = isinstance(axis.yaxis.get_major_formatter(), FixedFormatter)
        assert named or words or not axis.axison, "a quantity stands on its axis"
    for suffix in (".png", ".pdf"):
        assert (tmp_path / script.name).with_suffix(suffix).stat().st_size > 5000
        assert script.with_suffix(suffix).is_file(), "run `make figures` and commit the figure"

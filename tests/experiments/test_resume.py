"""What the committed results say of themselves, and what the experiments do with them."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from experiments import command, resume  # noqa: E402

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf8")
NAMES = re.findall(r"-m experiments\.(\w+)$", MAKEFILE, re.MULTILINE)
# Made before results of uncommitted code were refused, and marked so in their manifests.
DIRTY = {
    "binary_dnc", "depthwise_layerwise", "effective_depth", "equal_width", "every_layer",
    "feature_learning", "intermediate_collapse", "low_rank_bias",
    "public_resnet", "trained_head", "weight_decay_theory", "width_and_decay",
}  # fmt: skip


def results(name):
    """The files with a manifest that an experiment has committed."""
    path = command.RESULTS / name
    files = [path.with_suffix(".json")] if path.with_suffix(".json").is_file() else []
    inside = sorted(path.glob("*.json"))
    return files + [f for f in inside if "manifest" in json.loads(f.read_text(encoding="utf8"))]


@pytest.mark.parametrize("name", NAMES)
def test_make_experiments_finds_the_committed_results_finished(name, capsys):
    module = importlib.import_module(f"experiments.{name}")
    own = getattr(module, "PARTS", {})
    parts = own if isinstance(own, dict) else {}  # of an experiment that is made in parts
    files = results(name)
    assert files
    for file in files:
        assert resume.is_finished(file, parts.get(file.stem, module.Config()))
        record = json.loads(file.read_text(encoding="utf8"))
        clean = not record["manifest"]["commit"].endswith("-dirty")
        assert clean or name in DIRTY, f"{file} was made with uncommitted code"
    assert "is finished; delete it to make it again" in capsys.readouterr().out


@dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1)


@dataclass(frozen=True)
class Nested:
    trained: Config = field(default_factory=Config)


def test_a_manifest_says_the_command_without_its_folder(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--quick", "--output", "/some/where", "--cpu"])
    assert resume.manifest(Config())["command"].endswith(" --quick --cpu")


def test_fields_added_since_then_do_by_default_what_was_done_before(tmp_path):
    path = tmp_path / "result.json"
    then = resume.manifest(Nested())
    del then["config"]["trained"]["seeds"]
    path.write_text(json.dumps({"manifest": then}), "utf8")
    assert resume.is_finished(path, Nested())
    path.write_text(json.dumps({"manifest": resume.manifest(Nested(Config((3,))))}), "utf8")
    with pytest.raises(ValueError, match="made with other trained"):
        resume.is_finished(path, Nested())


def test_a_result_of_another_configuration_or_version_is_refused_by_name(tmp_path):
    path = tmp_path / "result.json"
    assert not resume.is_finished(path, Config())
    path.write_text(json.dumps({"manifest": resume.manifest(Config()), "parts": {"a": 1}}), "utf8")
    assert resume.finished_parts(path, Config()) == {"a": 1}
    for call in (resume.is_finished, resume.finished_parts):
        with pytest.raises(ValueError, match=r"result.json was made with other seeds; delete it"):
            call(path, Config(seeds=(2,)))
    text = path.read_text(encoding="utf8").replace('"perturb-nc": "', '"perturb-nc": "0.0.')
    path.write_text(text, encoding="utf8")
    with pytest.raises(ValueError, match="made with other version of perturb-nc"):
        resume.is_finished(path, Config())


def test_quick_runs_write_elsewhere_and_committed_results_need_committed_code(monkeypatch, capsys):
    folder = command.RESULTS / "x"
    monkeypatch.setattr(sys, "argv", ["x", "--quick"])
    assert command.options("", folder, "small").output == ROOT / "build" / "quick" / "x"
    monkeypatch.setattr(sys, "argv", ["x"])
    monkeypatch.setattr(command, "uncommitted", lambda: [])
    assert command.options("", folder, "small").output == folder
    monkeypatch.setattr(command, "uncommitted", lambda: ["perturb_nc/metrics.py"])
    with pytest.raises(SystemExit):
        command.options("", folder, "small")
    assert "need committed code, and perturb_nc/metrics.py differ" in capsys.readouterr().err


def test_uncommitted_names_files_of_the_code_alone(tmp_path, monkeypatch):
    for folder in ("perturb_nc", "experiments/results", "docs"):
        (tmp_path / folder).mkdir(parents=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    for file in ("perturb_nc/a.py", "experiments/results/b.json", "docs/c.md"):
        (tmp_path / file).write_text("1", encoding="utf8")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.uncommitted() == []
    for file in ("perturb_nc/a.py", "experiments/results/b.json", "docs/c.md"):
        (tmp_path / file).write_text("2", encoding="utf8")
    assert command.uncommitted() == ["perturb_nc/a.py"]

import base64
import gzip
import json

import pytest
import torch
from comparisons import comparison
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.study import compare
from perturb_nc.study.compare import compare_layers
from perturb_nc.study.comparison import load_comparison, save_comparison


@pytest.fixture
def layers():
    start = random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.0, times=[0.2, 0.5])
    return {"a": start, "b": path.statistics(0), "<script>": path.statistics(1)}


@pytest.fixture
def files(layers, tmp_path):
    """A network by file, one by folder, a finished comparison, and something else."""
    (tmp_path / "run").mkdir()
    pnc.save_layers(layers, tmp_path / "run" / "statistics.safetensors", {"data": "made up"})
    pnc.save_layers(layers, tmp_path / "net.safetensors")
    save_comparison(comparison("done"), tmp_path / "file.json")
    save_comparison(comparison("net"), tmp_path / "again.json")
    (tmp_path / "other.json").write_text("{}")
    return tmp_path


@pytest.fixture(autouse=True)
def no_pairs(monkeypatch):
    """Without the fits, which take seconds and are tested where they live."""

    def without(layers, **settings):
        return compare_layers(layers, **{**settings, "pairs": False})

    monkeypatch.setattr(compare, "compare_layers", without)


def test_report_compares_statistics_and_takes_what_is_finished(files, layers, run):
    output, kept = files / "o" / "page.html", files / "kept"
    options = ("--lambda-w", 0.1, "--metric", "nc1", "-o", output, "--save", kept)
    code, out, err = run("report", files / "net.safetensors", files / "run", *options)
    assert (code, out) == (0, f"wrote {output}\n")
    assert "net" in err
    assert "2/2" in err  # layers after the first
    page = output.read_text(encoding="utf8")
    assert "<dt>recorded data</dt><dd>made up</dd>" in page
    assert "&lt;script&gt;" in page
    assert "NC1 of the path is no prediction" in page
    saved = load_comparison(kept / "run.json")
    expected = compare_layers(layers, name="run", metric="nc1", lambda_w=0.1, pairs=False)
    torch.testing.assert_close(
        torch.tensor(saved["flow_time"].values),
        torch.tensor(expected["flow_time"].values),
        equal_nan=True,
    )
    assert saved.attrs["metric"] == "nc1"
    code, out, err = run("report", files / "file.json", kept / "run.json", "-o", output)
    assert (code, err) == (0, "")
    done = json.loads(
        run("report", kept / "run.json", "-o", output.with_name("p.html"), "--json")[1]
    )
    assert done == {"file": str(output.with_name("p.html")), "networks": ["run"]}
    assert output.read_text(encoding="utf8").count("<h2") == 3  # all, and two


def test_the_page_goes_where_the_command_runs(files, run, monkeypatch):
    monkeypatch.chdir(files / "run")
    code, out, _ = run("report", ".", "--align")
    assert (code, out) == (0, "wrote report.html\n")
    page = (files / "run" / "report.html").read_text(encoding="utf8")
    assert "<dt>class means aligned</dt><dd>true</dd>" in page
    packed = page.split('id="figures">')[1].split("</script>")[0]
    data = gzip.decompress(base64.b64decode(packed))
    assert json.loads(data)["network-1-layers"]["points"] == ["a", "b", "<script>"]
    assert '<h2 id="network-1-title">run</h2>' in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net.safetensors", "-o", "page.txt"), "--output must end in .html, got"),
        (("net.safetensors", "none.json"), "no file at"),
        (("kept",), "no file at"),
        (("net.safetensors", "other.json"), "holds no comparison"),
        (("net.safetensors", "again.json"), "again.json is 'net' again: rename it"),
        (("file.json", "--lambda-w", "1"), "lambda_w must be left out"),
        (("net.safetensors", "--metric", "x"), "net: metric must be one of"),
        (("net.safetensors", "--lambda-w", "-1"), "net: lambda_w must be > 0, got -1"),
        ((), "Missing argument 'runs'"),
    ],
)
def test_errors_are_one_line_and_nothing_is_written(arguments, message, files, run, monkeypatch):
    monkeypatch.chdir(files)
    before = sorted(files.rglob("*"))
    code, out, err = run("report", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("perturb-nc: ")
    assert len(err.splitlines()) == 1
    assert message in err
    assert sorted(files.rglob("*")) == before


def test_an_interrupted_report_leaves_the_old_page_and_what_was_saved(files, run, monkeypatch):
    calls = []

    def until_stopped(layers, **settings):
        calls.append(settings["name"])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compare_layers(layers, **{**settings, "pairs": False})

    monkeypatch.setattr(compare, "compare_layers", until_stopped)
    (files / "page.html").write_text("old")
    runs = (files / "net.safetensors", files / "run")
    code, out, _ = run("report", *runs, "-o", files / "page.html", "--save", files)
    assert (code, out) == (130, "")
    assert (files / "page.html").read_text() == "old"
    assert load_comparison(files / "net.json").attrs["name"] == "net"


def test_settings_are_for_what_is_still_to_compare(files, run):
    words = (files / "file.json", files / "net.safetensors", "--no-pairs", "-o", files / "p.html")
    code, out, _ = run("report", *words)
    assert (code, out) == (0, f"wrote {files / 'p.html'}\n")


def test_places_are_checked_before_the_work(files, run, monkeypatch):
    monkeypatch.setattr(compare, "compare_layers", lambda *_, **__: pytest.fail("compared"))
    for option, name in (("-o", "net.safetensors/page.html"), ("--save", "net.safetensors")):
        code, _, err = run("report", files / "net.safetensors", option, files / name)
        assert code == 2
        assert "net.safetensors is not a folder; give another place to write to" in err


def test_damaged_comparisons_are_refused(files, run):
    """By their digest, and where they have none by their layout."""
    path, page = files / "file.json", files / "page.html"
    record = json.loads(path.read_text(encoding="utf8"))
    text = path.read_text(encoding="utf8")
    digit = next(i for i in range(len(text) // 3, len(text)) if text[i].isdigit())
    path.write_text(text[:digit] + str((int(text[digit]) + 1) % 10) + text[digit + 1 :])
    code, _, err = run("report", path, "-o", page)
    assert (code, err.count("\n")) == (2, 1)
    assert "holds no comparison (" in err
    digest = record.pop("sha256")
    path.write_text(json.dumps({**record, "sha255": digest}))
    assert "holds no comparison (it holds " in run("report", path, "-o", page)[2]
    path.write_text(json.dumps(record))
    code, _, err = run("report", path, "-o", page)
    assert code == 0
    assert err == f"perturb-nc: note: {path} was written without a checksum: it is read unchecked\n"
    for name, part in (("data_vars", "predicted"), ("coords", "layer"), ("data_vars", "reason")):
        damaged = json.loads(json.dumps(record))
        del damaged[name][part]
        path.write_text(json.dumps(damaged))
        code, _, err = run("report", path, "-o", page)
        assert (code, err.count("\n")) == (2, 1)
        assert "holds no comparison (" in err

"""The documentation: its code runs, and what it names is there. None of this needs Sphinx."""

import ast
import importlib
import inspect
import json
import re
import runpy
import sys
from pathlib import Path

import pytest
from matplotlib import pyplot

import perturb_nc as pnc

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
FACES = ("deep", "measure", "metrics", "networks", "show", "study", "theory")
HOW_TO = ("metric", "layers", "huge", "monitor", "report", "plot")
USES = ("predict", "sweep", "compare")
NOTEBOOKS = sorted(p.stem for p in (DOCS / "notebooks").glob("*.md") if p.stem != "index")
PAGES = [
    "tutorial.md",
    "numerical.md",
    "cross_entropy.md",
    *(f"howto/{name}.md" for name in HOW_TO),
    *(f"uses/{name}.md" for name in USES),
]


def read(page):
    return (DOCS / page).read_text(encoding="utf8")


def blocks(page):
    return re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)


def documented(pages):
    """Qualified names of the directives of autodoc on some pages."""
    return [name for p in pages for name in re.findall(r"^\.\. auto\w+:: (\S+)", read(p), re.M)]


def attribute(name):
    """What a dotted name stands for."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AttributeError(name)


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, unchecked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page))
    assert code
    exec(compile(code, page, "exec"), {"__name__": "page"})
    pyplot.close("all")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom(name, unchecked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = re.findall(
        r"```\{code-cell\} python\n(.*?)```", read(f"notebooks/{name}.md"), re.DOTALL
    )
    assert len(cells) > 5
    exec(compile("\n".join(cells), name, "exec"), {"__name__": "page"})
    drawn = [pyplot.figure(number) for number in pyplot.get_fignums()]
    pyplot.close("all")
    assert len(drawn) >= 3


def test_every_notebook_is_listed_downloadable_and_ends_with_its_limits():
    listed = read("notebooks/index.md").rpartition("```{toctree}")[2].split()
    assert set(NOTEBOOKS) == {name for name in listed if name.isidentifier()}
    for name in NOTEBOOKS:
        page = read(f"notebooks/{name}.md")
        assert page.startswith("---\nfile_format: mystnb\n")
        assert f"{{nb-download}}`{name}.ipynb`" in page
        assert re.findall(r"^## (.*)$", page, re.M)[-1] == "Limits"


def test_each_use_has_a_page_with_a_picture_one_step_from_the_first():
    first = read("index.md")
    assert sorted(USES) == sorted(path.stem for path in (DOCS / "uses").glob("*.md"))
    for name in USES:
        assert f":link: uses/{name}\n" in first
        (figure,) = re.findall(r"```\{image\} (\S+)", read(f"uses/{name}.md"))
        assert (DOCS / "uses" / figure).is_file()


def test_the_tutorial_says_what_its_code_prints(capsys, unchecked):
    page = read("tutorial.md")
    names = {}
    exec("\n".join(blocks("tutorial.md")), names)
    measured = {n: pnc.collapse_metrics(s) for n, s in names["layers"].items()}
    said = re.search(r"NC1 falls from layer to layer, ([.\d, ]+) \(", page)[1]
    for text, metrics in zip(said.split(", "), measured.values(), strict=True):
        assert float(text) == pytest.approx(metrics.nc1, abs=2e-3)
    rows = {"NC1": "nc1", "ÑC1": "nc1_trace", "NC2": "nc2_etf"}
    for label, metric in rows.items():
        cells = re.search(rf"^\| {label} \| (\S+) \| (\S+) \| (\S+) \|$", page, re.M).groups()
        sides = (measured["blocks.2"], names["predicted"], names["measured"])
        for text, side in zip(cells, sides, strict=True):
            assert float(text) == pytest.approx(getattr(side, metric), abs=2e-3)
    assert names["solution"].certificate.spectral_ratio == pytest.approx(1.30, abs=0.01)
    assert not names["solution"].certificate.is_global


def test_the_script_of_a_model_of_ones_own_runs(tmp_path, monkeypatch, capsys, unchecked):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(DOCS / "howto" / "own_model.py"), run_name="__main__")
    predicted, measured = map(float, re.findall(r"[\d.]+(?=,|\n)", capsys.readouterr().out)[:2])
    assert abs(predicted - measured) < 0.1 * measured
    assert list(pnc.load_layers("measured.safetensors"))[-1] == "head"
    page = Path("report.html").read_text(encoding="utf8")
    assert "blocks.2" in page


def test_the_sweep_on_a_cluster_has_the_arguments_of_sweep():
    (code,) = blocks("howto/cluster.md")
    (call,) = (
        node
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "sweep"
    )
    accepted = inspect.signature(pnc.sweep).parameters
    assert {keyword.arg for keyword in call.keywords} <= set(accepted)


def test_the_reference_has_every_public_name_once_and_nothing_else():
    names = documented([f"api/{path.name}" for path in (DOCS / "api").glob("*.md")])
    assert len(names) == len(set(names))
    wanted = {f"perturb_nc.{name}" for name in pnc.__all__} - {f"perturb_nc.{f}" for f in FACES}
    for face in FACES:
        public = attribute(f"perturb_nc.{face}").__all__
        wanted |= {f"perturb_nc.{face}.{name}" for name in public if name not in FACES}
    assert len(set(pnc.__all__) - set(FACES)) <= 45
    assert set(names) == wanted  # so nothing under the path of its module
    for name in names:
        assert attribute(name).__doc__, name
    for path in (DOCS / "api").glob("*.md"):
        listed = re.findall(
            r"^\.\. auto\w+:: (\S+)\n   :members: (.+)$", path.read_text("utf8"), re.M
        )
        for name, members in listed:
            for member in members.split(","):
                assert hasattr(attribute(name), member.strip()), f"{name}: {member}"


def test_every_figure_is_in_the_gallery_with_its_command():
    gallery = read("gallery.md")
    makefile = (ROOT / "Makefile").read_text(encoding="utf8")
    shown = re.findall(r"```\{figure\} \.\./paper_figs/(\w+)\.png\n:name: \1\n", gallery)
    for suffix in (".png", ".pdf"):
        drawn = sorted(path.stem for path in (ROOT / "paper_figs").glob(f"*{suffix}"))
        assert drawn == sorted(shown), suffix
    commands = re.findall(
        r"^    python -m (\w+)\.(\w+)\n    python paper_figs/(\w+)\.py$", gallery, re.M
    )
    assert [figure for *_, figure in commands] == shown
    for folder, experiment, figure in commands:
        assert (ROOT / folder / f"{experiment}.py").is_file()
        assert folder == "benchmarks" or f"-m experiments.{experiment}\n" in makefile
        script = (ROOT / "paper_figs" / f"{figure}.py").read_text(encoding="utf8")
        source = rf'/ "{experiment}(\.json)?"|from experiments\.{experiment} import FOLDER'
        assert re.search(source, script), (experiment, figure)


def test_every_experiment_is_listed_with_its_question():
    rows = re.findall(
        r"^\| (`.*?) \|", read("experiments.md").partition("## All experiments")[2], re.M
    )
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    files = (ROOT / "experiments").glob("*.py")
    run = [path.stem for path in files if "\ndef main(" in path.read_text(encoding="utf8")]
    assert sorted(listed) == sorted(run)


def test_every_formula_lives_and_is_checked_where_the_page_says():
    page = read("mathematics.md")
    tests = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page)
    assert len(tests) > 40
    for path, test in tests:
        assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf8"), test
    for line in re.findall(r"^- Code:.*(?:\n  .*)*", page, re.M):
        names = re.findall(r"`(perturb_nc\.[\w.]+)`", line)
        assert names, line
        for name in names:
            attribute(name)
    assert page.count("\n- Code:") == page.count("\n- Checked:")


def test_pages_link_to_files_that_exist():
    for path in DOCS.rglob("*.md"):
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf8")):
            assert (path.parent / link.partition("#")[0]).exists(), f"{path.name}: {link}"


def test_a_docstring_shows_its_formulas(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    displayed = runpy.run_path(str(DOCS / "conf.py"))["displayed"]
    lines = ["Size |W|² of `|x|`:", "", "    f = |W|", "", "Args:", "    a, b: |c|."]
    assert displayed(lines) == [
        r"Size \|W\|² of `|x|`:", "", "::", "", "    f = |W|", "", "Args:", r"    a,b: \|c\|.",
    ]  # fmt: skip


def test_pages_of_commands_are_their_help(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(DOCS / "conf.py"))["write_commands"](tmp_path)
    written = {path.name: path.read_text(encoding="utf8") for path in tmp_path.iterdir()}
    committed = {p.name: p.read_text(encoding="utf8") for p in (DOCS / "commands").iterdir()}
    assert written == committed, "run `make command-pages`"


def test_every_status_has_a_row():
    page = read("statuses.md")
    for status in pnc.Status:
        (row,) = re.findall(rf"^\| `{status.name}` \| (yes|no) \|", page, re.M)
        assert (row == "yes") is status.is_done


def test_sections_that_docstrings_cite_are_there():
    page = read("mathematics.md")
    headings = " ".join(re.findall(r"^## .*$", page, re.M))
    for path in (ROOT / "perturb_nc").rglob("*.py"):
        for cited in re.findall(r"docs §(\d(?:\.\d)?(?:[,-] ?\d\.\d)*)", path.read_text("utf8")):
            for section in re.findall(r"\d(?:\.\d)?", cited):
                assert f"§{section}" in headings, (path.name, section)


def test_the_verbs_to_choose_from_are_public():
    table = read("howto/choose.md").partition("## Which metric")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert len(named) > 10
    assert named - set(pnc.__all__) == set()


def docstrings():
    """Every docstring of the package, with its place."""
    for path in sorted((ROOT / "perturb_nc").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                yield path, getattr(node, "name", path.stem), ast.get_docstring(node) or ""


def test_names_that_pages_call_are_there():
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    text = "".join(page.read_text(encoding="utf8") for page in pages)
    found = set(re.findall(r"\bpnc((?:\.\w+)+)", text))
    assert len(found) > 40
    for name in sorted(found):
        attribute(f"perturb_nc{name}")


def undocumented(node, place, private=False):
    """Places of functions and classes that have no docstring, methods and inner ones among them."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield from undocumented(child, place, private)
            continue
        inside = private or child.name[0] == "_"
        again = {"overload"} & {ast.unparse(decorator) for decorator in child.decorator_list}
        if not inside and not again and not ast.get_docstring(child):
            yield f"{place}.{child.name}"
        yield from undocumented(child, f"{place}.{child.name}", inside)


def test_every_public_function_method_and_class_says_what_it_is():
    tree = ast.parse("class A:\n '''a'''\n def b(self):\n  def c(): ...\n def _d(self): ...")
    assert list(undocumented(tree, "")) == [".A.b", ".A.b.c"]
    found = []
    for path in sorted((ROOT / "perturb_nc").rglob("*.py")):
        found += undocumented(ast.parse(path.read_text(encoding="utf8")), path.stem)
    assert found == []


def test_papers_that_docstrings_cite_are_in_the_bibliography():
    conf = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    found = set()
    for path, name, text in docstrings():
        try:
            found |= {key for _, key in conf["cited"](text)}
        except KeyError as missing:
            pytest.fail(f"{path}: {name} cites {missing}, which references.bib does not hold")
    assert len(found) > 30
    line = conf["linked"]("Chan, Golub & LeVeque (1983), as Tirer et al. 2023, Theorem 4.1, did")
    said = ":cite:t:`chan1983algorithms`, as :cite:alp:`tirer2023perturbation`, Theorem 4.1, did"
    assert line == said


def test_public_results_with_a_formula_name_their_source():
    files = [f"metrics/{stem}" for stem in ("within", "frame", "duality", "covariance")]
    missing = []
    for path, name, text in docstrings():
        said = re.split("Args:|Example:", text)[0]
        formula = re.search(r"^ {4}\S.*[=≥≤].*$", said, re.MULTILINE)
        verb = name in pnc.__all__ and name[0].islower() and name not in ("deep", "networks")
        of_metrics = f"{path.parent.name}/{path.stem}" in files
        metric = of_metrics and name[0] != "_" and name != path.stem
        sourced = re.search(r"(19|20)\d\d|docs §|Source:", text)
        if ((verb and formula) or metric) and not sourced:
            missing.append(f"{path.stem}.{name}")
    assert missing == []


def test_reliability_says_what_the_committed_run_counted():
    endurance = ROOT / "tests" / "endurance"
    written = runpy.run_path(str(endurance / "figures.py"))["written"]
    result = json.loads((endurance / "result.json").read_text("utf8"))
    page = (DOCS / "reliability.md").read_text("utf8")
    assert written(page, result) == page
    assert not any(sum(part["falls"].values()) for part in result["parts"].values())

"""Configuration of Sphinx: `make docs` builds the site in build/docs."""

import importlib.metadata
import json
import os
import re
import sys
import unicodedata
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]

os.environ.setdefault("OMP_NUM_THREADS", "1")  # for notebooks, whose matrices are small

project = "perturb_nc"
author = "The perturb_nc authors"
release = importlib.metadata.version("perturb-nc")
extensions = [
    "myst_nb",  # Markdown, and notebooks written in it
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
    "sphinx-mathjax-offline",  # the site needs no network
]
html_theme = "furo"
html_title = "perturb_nc"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
exclude_patterns = ["README.md"]

myst_enable_extensions = ["dollarmath", "colon_fence", "substitution"]
myst_heading_anchors = 3
nb_execution_mode = "force"  # an error in a notebook is one of the build
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
copybutton_exclude = ".linenos, .gp, .go"
suppress_warnings = ["myst.header"]  # pages may begin below a heading of level 1
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

default_role = "code"  # single backticks in docstrings are code
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes of dataclasses stand in their docstring, once
napoleon_attr_annotations = False  # types of fields stand in the signature
napoleon_use_rtype = False

# Without the inventories of other projects (a build uses no network) their names have no pages;
# nor have shapes ("K d") and private names in annotations.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|jaxtyping|xarray|matplotlib)\..*"),
    ("py:.*", r"(collections|concurrent|pathlib|typing)\..*"),
    ("py:class", r"Tensor|np\.ndarray|'.*|.*'"),
    ("py:class", r"perturb_nc\.(.*\.)?_.*"),
    # Names of types that stand for what they say, and classes of the inside.
    ("py:class", r"nn\..*|Loader|Layers|Reduction"),
    ("py:class", r"perturb_nc\..*\.(Kind|Jet|Mixture|NearestFrame|Samples|Targets|Part|Own|Point)"),
    (
        "py:class",
        r"perturb_nc\..*\.(CrossEntropyPoint|Regularization|Accumulation|Covariance|Model)",
    ),
    ("py:class", r"perturb_nc\..*\.(Coefficients|NearSamples|NearScalars|UnequalClasses)"),
]

_NAMES = re.compile(r"(?<=\w), (?=[\w, ]*: )")  # of several arguments that share one line
# Links to what has no page.
_FILES = re.compile(r"\]\(((?:\.\./)+(?:(?:benchmarks|experiments)/[^)]+|CONTRIBUTING\.md))\)")
# "Tirer et al. 2023", "Wu & Papyan 2024", "Chan, Golub & LeVeque (1983)".
_CITED = re.compile(
    r"(?P<first>[A-ZÀ-Ž][\w'-]+)(?:(?:, [A-ZÀ-Ž][\w'-]+)*,? (?:&|and) [A-ZÀ-Ž][\w'-]+| et al\.)?"
    r" (?P<open>\()?(?P<year>(?:19|20)\d\d)(?(open)\))(?!\w)"
)
_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")


def plain(word: str) -> str:
    """A name without accents, those of LaTeX too, in small letters."""
    letters = unicodedata.normalize("NFD", re.sub(r"\{\\\W?(\w)\}", r"\1", word))
    return "".join(c for c in letters if not unicodedata.combining(c)).lower()


def references(bibliography: str) -> dict[tuple[str, str], str]:
    """(first author, year) of every entry → its key."""
    found = {}
    for entry in re.split(r"^@\w+", bibliography, flags=re.MULTILINE)[1:]:
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\}", entry, re.MULTILINE))
        first = fields["author"].split(" and ")[0].split(",")[0]
        place = plain(first.split()[-1]), fields["year"]
        assert place not in found, f"two entries for {place}"
        found[place] = entry[1 : entry.index(",")]
    return found


REFERENCES = references((Path(__file__).parent / "references.bib").read_text(encoding="utf8"))


def cited(text: str) -> list[tuple[str, str]]:
    """Every paper that a docstring names, and its key; KeyError where the bibliography lacks it."""
    return [(m[0], REFERENCES[plain(m["first"]), m["year"]]) for m in _CITED.finditer(text)]


def linked(line: str) -> str:
    """A line with its papers as links to the bibliography."""
    for name, key in cited(line):
        role = "t" if name.endswith(")") else "alp"
        line = line.replace(name, f":cite:{role}:`{key}`")
    return line


def displayed(lines: list[str]) -> list[str]:
    """A docstring with its indented formulas as literal blocks and bars that are just bars."""
    result: list[str] = []
    section, literal, before = False, False, ""
    for line in lines:
        indented = line.startswith(" ")
        if section:
            line = _NAMES.sub(",", line)
        if line.strip() and not indented:
            section, literal = bool(_SECTION.match(line)), False
        elif line.strip() and not section and not literal and not before.strip():
            result += ["::", ""]
            literal = True
        if not literal:
            # Outside of `code`, where a backslash would show.
            parts = re.split(r"(`[^`]*`)", line)
            parts[::2] = [linked(part.replace("|", r"\|")) for part in parts[::2]]
            line = "".join(parts)
        result.append(line)
        before = line
    return result


def accelerator(results: Path) -> str:
    """What ran on an accelerator so far, from the results that are there."""
    found = [json.loads(path.read_text(encoding="utf8")) for path in sorted(results.glob("*.json"))]
    devices = [r["device"] for r in found if str(r.get("device", "")).startswith("cuda")]
    if not devices:
        return "**Not run on a GPU yet.**"
    kinds = ", ".join(sorted({d.removeprefix("cuda: ") for d in devices}))
    return f"**Pieces that have run on a GPU: {len(devices)}, on {kinds}.**"


ROOT = Path(__file__).parent.parent
FIGURES, THUMBNAILS = ROOT / "paper_figs", ROOT / "build" / "thumbnails"


def thumbnails() -> str:
    """A grid of small pictures, each of which leads to its figure in the gallery."""
    cards = ["::::{grid} 2 3 4 5", ":gutter: 2", ""]
    for path in sorted(FIGURES.glob("*.png")):
        cards += [
            ":::{grid-item-card}", f":img-top: ../build/thumbnails/{path.name}",
            f":img-alt: {path.stem}", f":link: {path.stem}", ":link-type: ref", ":padding: 1",
            ":text-align: center", ":class-card: thumbnail", "",
            path.stem.replace("_", " "), ":::",
        ]  # fmt: skip
    return "\n".join([*cards, "::::"])


def write_thumbnails(*_: object) -> None:
    """Small pictures of the figures, in build/thumbnails."""
    from PIL import Image, ImageOps

    THUMBNAILS.mkdir(parents=True, exist_ok=True)
    for path in FIGURES.glob("*.png"):
        with Image.open(path) as figure:
            small = ImageOps.fit(figure.convert("RGB"), (480, 300), centering=(0, 0))
            small.save(THUMBNAILS / path.name)


myst_substitutions = {
    "accelerator": accelerator(ROOT / "experiments" / "results" / "accelerator"),
    "thumbnails": thumbnails(),
}


def write_commands(folder: Path) -> None:
    """A page for each command, from its own help: `make command-pages`."""
    import click
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from perturb_nc.cli.main import app

    group = get_command(app)
    context = click.Context(group, info_name="perturb-nc")
    folder.mkdir(exist_ok=True)
    for name, command in group.commands.items():
        text = get_docs_for_click(obj=command, ctx=context, name=name, call_prefix="perturb-nc")
        (folder / f"{name}.md").write_text(text, encoding="utf8")
    listed = "\n".join(group.commands)
    said = "Each prints a table, or JSON with `--json`; errors are one line and exit code 2."
    index = f"# Commands\n\n{said}\n\n```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```\n"
    (folder / "index.md").write_text(index, encoding="utf8")


def setup(app: object) -> None:
    """Display formulas before napoleon reads the sections (priority 500); link files as files."""
    from formulas import typeset

    def process(_app: object, kind: str, *rest: list[str]) -> None:
        lines = rest[-1]
        # What a dictionary has for a docstring is that of all dictionaries.
        lines[:] = [] if kind == "data" else typeset(displayed(lines))

    def link(_app: object, _name: str, source: list[str]) -> None:
        source[0] = _FILES.sub(r"](path:\1)", source[0])

    app.connect("config-inited", write_thumbnails)
    app.connect("autodoc-process-docstring", process, priority=400)
    app.connect("source-read", link)

"""Names of layers, files and networks: text, wherever they come out."""

import base64
import csv
import gzip
import io
import json
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from importlib.resources import files
from itertools import cycle

import bad_files
import pytest
from comparisons import comparison

import perturb_nc as pnc
from perturb_nc.measure.epoch_file import EpochFile, read_epochs
from perturb_nc.show.report.page import write_report
from perturb_nc.study.explorer import Explorer

COMMANDS = "".join(map(chr, [*range(9), 11, 12, *range(14, 32), *range(127, 160)]))
COMMANDS += "\u2028\u2029\u202a\u202e\u2066\u2069"
HOSTILE = {
    "escapes": "\x1b[2J\x1b]0;title\x07\x1b]52;c;cm0gLXJm\x07red",
    "C1": "\x9b31mred\x9d0;title\x9c\x85\x90q",
    "ends of lines": "a\u2028b\u2029c\x0b\x0c\x1c\x1d\x1ed",
    "directions": "\u202egnp.exe\u2066\u2069",
    "tags": "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "attributes": "\"' onmouseover=alert(1) x='",
    "links of plotly": '<a href="javascript:alert(1)">x</a><b>bold</b>',
    "closing": "</script></style>--><!--]]>{{7*7}}{% raw %}${7*7}",
    "rich": "[/b] :boom: [red]x[/red] [link=https://x.example]y[/link]",
    "mathematics": "a $^{ b \\frac{",
    "formats": "%s {0} {name} %(x)s \\n",
    "formula": '=HYPERLINK("https://x.example","x")',
    "plus": "+cmd|' /C calc'!A0",
    "at": "@SUM(1+1)*cmd",
    "tab": "\t=1+1",
    "long": "n" * 5000,
    "wide": "特徴 ümlaut \U0001f600 \u200b\ufeff",
    "empty": " ",
    "paths": "../../etc/passwd",
    "JSON": '"}]}\\u0000',
}
LAMBDAS = ("--lambda-w", 0.1, "--lambda-h", 0.05)
MODEL = (*LAMBDAS, "--beta", 1)


@pytest.fixture(scope="module")
def statistics():
    start = bad_files.valid_statistics()
    later = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.0, times=[0.3, 0.8])
    return [start, later.statistics(0), later.statistics(1)]


def layers_of(name, statistics):
    names = (name, f"{name} 2", f"{name} 3")
    return dict(zip(names, statistics, strict=True))


@pytest.mark.parametrize("kind", HOSTILE)
def test_names_in_a_terminal(kind, statistics, run, tmp_path, unchecked, ledger):
    """Of layers, in every command and in --json, whose text is still the name."""
    name = HOSTILE[kind]
    file = tmp_path / "net.safetensors"
    pnc.save_layers(layers_of(name, statistics), file)
    calls = [
        ("metrics", file, "--all"),
        ("predict", file, *MODEL),
        ("flow", file, *LAMBDAS, "--points", 4, "-o", tmp_path / "flow"),
        ("depth", file, *LAMBDAS, "-o", tmp_path / "depth"),
        ("sweep", file, "--reference", name, *MODEL, "-o", tmp_path / "s.zarr"),
        ("predict", file, "--reference", name),
        ("sweep", file, *MODEL, "-o", tmp_path / "t.zarr"),
        ("flow", file, "--reference", f"not {name}", *LAMBDAS, "-o", tmp_path / "flow"),
        ("metrics", tmp_path / f"{name[:80].replace('/', '_')}.safetensors".replace("\0", "_")),
    ]
    machine = [("metrics", file, "--json"), ("predict", file, *MODEL, "--json")]
    for call in (*calls, *machine):
        try:
            _, out, err = run(*call)
        except Exception as error:
            ledger.falls_by("tracebacks", f"{kind}, {call[0]}: {error!r}")
            continue
        shown = set(out + err.replace("\x1b[", "")) if call[0] == "sweep" else set(out + err)
        if found := shown & set(COMMANDS):
            ledger.falls_by("tracebacks", f"{kind}, {call[0]}: {sorted(map(ord, found))} come out")
        elif call in machine and name not in json.loads(out):
            ledger.falls_by("silent changes", f"{kind}, {call[0]}: {out[:200]}")
        else:
            ledger.ends("text in the terminal")


class Tags(HTMLParser):
    """What a page has that is more than text: elements, handlers of events, and links."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def handle_starttag(self, tag, attrs):
        if tag in ("script", "style", "a", "img", "iframe", "object", "embed", "form", "link"):
            self.found[tag] += 1
        for name, value in attrs:
            link = name in ("href", "src", "action", "formaction") and value[:1] != "#"
            if link or name.startswith("on"):
                self.found[f"{name} of {tag}"] += 1


def tags_of(name, path):
    layers = (name, "blocks.1 <b>", "x", "y", f"{name} 2")
    write_report([comparison(name=name, layers=layers)], path, title=name)
    page = path.read_text("utf8")
    parser = Tags()
    parser.feed(page)
    return parser.found, page


def figures_in(page):
    """The packed records of the page's figures."""
    for packed in re.findall(r">\s*(H4sI[A-Za-z0-9+/=]{40,})\s*<", page):
        text = gzip.decompress(base64.b64decode(packed)).decode("utf8")
        if text.startswith("{"):
            yield json.loads(text)


def strings_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)


def test_names_in_a_report(tmp_path, unchecked, ledger):
    plain, page = tags_of("net", tmp_path / "plain.html")
    assert next(figures_in(page), None) is not None
    assert plain["script"]
    for kind, name in HOSTILE.items():
        try:
            found, page = tags_of(name, tmp_path / "x.html")
        except Exception as error:
            ledger.falls_by("tracebacks", f"{kind}: {error!r}")
            continue
        if found != plain:
            ledger.falls_by("silent changes", f"{kind}: the page has {found - plain}")
        records = [f for record in figures_in(page) for f in record.values()]
        # "points" are fields of tables, and the words of "views" are set as text.
        drawn = [{k: v for k, v in f.items() if k not in ("points", "views")} for f in records]
        live = [text for text in strings_in(drawn) if re.search("<(a|script|img)[ >]", text)]
        if not drawn or live:
            ledger.falls_by("silent changes", f"{kind}: a figure has {live[:1]}")
        ledger.ends("text in the report")


def test_names_in_the_explorer(statistics, ledger):
    dash = pytest.importorskip("dash", reason="needs dash")
    from perturb_nc.show.explore.page import SCALES, build_app, predicted, shown

    stops = {name: scale.start for name, scale in SCALES.items()}
    for kind, name in HOSTILE.items():
        layers = layers_of(name, statistics)
        for layer in layers:
            explorer = Explorer(layers)
            answer = shown(explorer, layer, predicted(explorer, layer, stops, exact=True))
            figures = [part for part in answer if isinstance(part, dict) and "data" in part]
            assert figures
            texts = list(strings_in(json.loads(json.dumps(figures))))
            if any(re.search("<(a|script|img|b)[ >]", text) for text in texts):
                ledger.falls_by("silent changes", f"{kind}: live markup in a figure")
        client = build_app(layers, title=name).server.test_client()
        page = client.get("/").text
        if "<script>alert" in page or "onerror=alert(1)>" in page:
            ledger.falls_by("silent changes", f"{kind}: live markup in the page")
        assert client.get("/_dash-layout").status_code == 200
        ledger.ends("text in the explorer")
    assert dash


def test_names_in_tables_for_spreadsheets(ledger):
    """The page's own code: a field that a spreadsheet would run has an apostrophe before it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    code = (files("perturb_nc.show.report") / "templates" / "report.js").read_text("utf8")
    function = re.search(r"const csv = \(rows\) => \{.*?\n  \};", code, re.S)[0]
    names = list(HOSTILE.values())
    program = (
        f"{function}\nprocess.stdout.write(csv({json.dumps([[n, '-1.5e-3'] for n in names])}))"
    )
    text = subprocess.run([node, "-e", program], capture_output=True, text=True, check=True).stdout
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert len(rows) == len(names)
    for name, (found, number) in zip(names, rows, strict=True):
        if found[:1] in tuple("=+-@\t\r"):
            ledger.falls_by("silent changes", f"{found[:40]!r} is a formula")
        elif found.removeprefix("'") != name or number != "-1.5e-3":
            ledger.falls_by("silent changes", f"{name!r} became {found!r}")
        else:
            ledger.ends("text in a spreadsheet")


def test_names_in_files(statistics, tmp_path, ledger):
    """Read back as they were written."""
    for (kind, name), number in zip(HOSTILE.items(), cycle(range(99)), strict=False):
        path = tmp_path / f"{number}.safetensors"
        pnc.save_layers(layers_of(name, statistics), path)
        kept = [list(pnc.load_layers(path)) == list(layers_of(name, statistics))]
        table = comparison(name=name, layers=(name, "a", "b", "c", "d"))
        pnc.save_comparison(table, tmp_path / f"{number}.json")
        kept.append(pnc.load_comparison(tmp_path / f"{number}.json").identical(table))
        for suffix in (".jsonl", ".csv"):
            for epoch in (1, 2):
                record = {"epoch": epoch, "note": name, "layers": {name: {"nc1": 0.5}}}
                EpochFile(tmp_path / f"{number}{suffix}").append(record)
            lines = read_epochs(tmp_path / f"{number}{suffix}")
            kept.append([list(line["layers"]) for line in lines] == [[name], [name]])
        if all(kept):
            ledger.ends("read back")
        else:
            ledger.falls_by("lost rows", f"{kind}: {kept}")

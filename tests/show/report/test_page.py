"""The report: its page as text, and the sentences that its numbers bear out."""

import base64
import gzip
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
from comparisons import ALONE, FIRST, MODELS, OFF, UNREACHED, comparison
from problems import random_problem

from perturb_nc.show.report import collapse, tables, words
from perturb_nc.show.report.overview import which_is_best
from perturb_nc.show.report.page import sections, write_report
from perturb_nc.show.report.parts import Cell, Table, figures_in
from perturb_nc.show.report.words import change, judged_errors, of_pairs, where_it_loses
from perturb_nc.study.compare import compare_layers
from perturb_nc.study.comparison import errors
from perturb_nc.study.quantities import JUDGED

NAMES = ("<script>alert(1)</script>", 'a"b', "blocks.1", "<a href='http://x.invalid'>c</a>", "head")
VOID = {"meta", "input", "link", "br"}


class Page(HTMLParser):
    """Elements of a page as (tag, attributes, text), and what is not closed in order."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.astray = [], [], []
        self.feed(text)
        self.close()
        self.astray += self.open

    def handle_starttag(self, tag, attributes):
        element = [tag, dict(attributes), ""]
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.astray.append(tag)

    def handle_data(self, data):
        for element in self.open:
            element[2] += data

    def all(self, tag, **attributes):
        return [
            (found, text)
            for name, found, text in self.elements
            if name == tag and all(found.get(k) == v for k, v in attributes.items())
        ]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report([comparison(layers=NAMES), comparison("<b>two</b>")], path, title="A <title>")
    return Page(path.read_text(encoding="utf8"))


def unpacked(page, name):
    ((_, text),) = page.all("script", id=name)
    return gzip.decompress(base64.b64decode(text)).decode("utf8")


def figures_of(comparison):
    found = [figure for section in sections(comparison) for figure in figures_in(section.parts)]
    return {figure.key: figure for figure in found}


def verdict_of(comparison):
    return {part.title: part.sentences for part in sections(comparison)[0].parts}


def rows(page, table):
    """Texts of the cells of a table's body."""
    start = next(i for i, e in enumerate(page.elements) if e[1].get("id") == table)
    found = []
    for tag, _, text in page.elements[start + 1 :]:
        if tag == "tr":
            found.append([])
        elif tag in ("th", "td"):
            found[-1].append(" ".join(text.split()))
        elif tag in ("table", "button"):
            break
    return found[1:]


def test_the_page_is_well_formed_and_tells_the_story_in_order(page):
    assert page.astray == []
    headings = [(tag, t.strip()) for tag, _, t in page.elements if re.fullmatch(r"h\d", tag)]
    short = ["How near collapse", "Which prediction is best"]
    parts = ["In short", "How near collapse the layers are", "Measured and predicted"]
    parts += ["Where the layers lie on the central path", "In which directions features scatter"]
    story = [("h3", f"{i} {part}") for i, part in enumerate([*parts, "Tables"], start=1)]
    verdict = [("h4", title) for title in (*short, "What to distrust")]
    story[1:1] = verdict
    assert headings == [
        ("h1", "A <title>"),
        ("h2", "All networks"),
        *(("h3", title) for title in (*short, "Where the theory loses", "Standings")),
        ("h2", "net"),
        *story,
        ("h2", "<b>two</b>"),
        *story,
    ]
    assert [text for _, text in page.all("title")] == ["A <title>"]
    assert {tag for tag, *_ in page.elements} >= {"header", "main", "footer"}
    assert len(page.all("figure")) == 2 * 5 + 1
    ids = [found["id"] for _, found, _ in page.elements if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found, _ in page.elements:
        for key in ("for", "aria-labelledby", "data-table"):
            assert found.get(key, ids[0]) in ids
        assert found.get("href", "#content").removeprefix("#") in ids


def test_names_are_text_and_nothing_else(page):
    assert not [found for found, _ in page.all("a") if "invalid" in found["href"]]
    assert not page.all("b")
    scripts = [text for _, text in page.all("script")]
    assert len(scripts) == 3  # the data, plotly, the page's own
    assert "plotly.js" in unpacked(page, "plotly")[:100]
    assert not [text for text in scripts if text.startswith("alert")]
    whole = [found.get("data-value") for found, _ in page.all("th", scope="row")]
    assert NAMES[0] in whole  # for the download
    shown = [row[0] for row in rows(page, "network-1-measured")]
    assert shown == ["…t>alert(1)</script>", *NAMES[1:3], "…://x.invalid'>c</a>", "head"]
    assert [found for found, _ in page.all("span", title=NAMES[0])]
    data = json.loads(unpacked(page, "figures"))
    assert data["network-1-layers"]["points"] == list(NAMES)
    ticks = data["network-1-layers"]["figure"]["layout"]["xaxis"]["ticktext"]
    assert not [tick for tick in ticks if "<" in tick]  # plotly reads markup in them


def test_the_page_names_no_address_that_a_browser_would_load(page):
    for tag, found, _ in page.elements:
        assert "src" not in found, tag
        assert tag not in ("link", "iframe", "img", "base")
    (policy,) = (found["content"] for found, _ in page.all("meta") if "http-equiv" in found)
    assert policy.startswith("default-src 'none';")
    (css,) = (text for _, text in page.all("style"))
    assert "url(" not in css
    assert "@import" not in css


def test_numbers_have_three_digits_on_the_page_and_all_of_them_in_the_cell(page):
    assert rows(page, "network-1-fit")[1][:5] == [NAMES[1], "0.9", "1e-16", "0.0512", "0.1"]
    cells = [found.get("data-value") for found, text in page.all("td") if text == "0.0512"]
    assert cells == ["0.0512345"] * 6
    measured = rows(page, "network-1-measured")
    assert measured[1][:4] == [NAMES[1], "64", "0.5 [0.45, 0.55]", "0.571 [0.514, 0.629]"]


def test_what_there_is_not_is_a_dash_with_its_reason(page):
    places = rows(page, "network-2-places")
    assert places[3] == ["blocks.2", "0", "0.05", f"– {UNREACHED}", UNREACHED]
    assert places[0][3:] == [f"– {FIRST}", FIRST]
    predictions = rows(page, "network-2-predictions")
    assert len(predictions) == 2 + 3 * (len(MODELS) - 1)
    assert predictions[0][:3] == ["blocks.0", "path", "yes"]
    assert rows(page, "network-2-fit")[-1][1] == f"– {ALONE}"
    missing = rows(page, "network-2-missing")
    assert [UNREACHED, "path", "blocks.2"] in missing
    assert [ALONE, "path, pair, shrinkage, interpolation, unchanged", "head"] in missing


def test_the_best_is_marked_and_what_placed_the_layers_is_no_contest(page):
    errors = rows(page, "network-1-errors")
    assert [row[0] for row in errors] == list(MODELS)
    interpolation = errors[3]
    assert interpolation[1:] == ["0.03 best"] * 8
    assert sum("best" in cell for row in errors for cell in row) == 8
    heads = [text for _, text in page.all("th", scope="col")]
    assert "ÑC1 in the span" not in heads[heads.index("model") :][:9]  # which placed them
    row = rows(page, "summary-nc1")[0]
    assert row == ["net", "2 of 2", "0.05", "0.1", "0.2", "0.03 best", "0.4"]


def test_where_it_loses_counts_networks():
    better = OFF | {"interpolation": 0.06}
    table = judged_errors([comparison("a"), comparison("b", off=better), comparison("c")])
    lost = "ÑC1, NC1, CDNV, NC2, NC2 norms, NC2 angles, within share and eigenvalues"
    assert where_it_loses(table) == [
        f"On 2 of 3 networks interpolation predicts {lost} better than the path.",
        f"On 3 of 3 networks interpolation predicts {lost} better than the pair optimum.",
    ]
    table.loc[{"network": "a", "model": "shrinkage", "quantity": "nc1"}] = 0.001
    table.loc[{"network": "b", "model": "shrinkage", "quantity": "nc1"}] = 0.001
    table.loc[{"model": "path", "quantity": "cdnv"}] = 0.0
    table.loc[{"network": "c", "model": "path", "quantity": "cdnv"}] = np.nan
    rest = "ÑC1, NC2, NC2 norms, NC2 angles, within share and eigenvalues"
    assert where_it_loses(table)[:3] == [
        "On 3 of 3 networks a naive rival predicts NC1 better than the path (shrinkage on 2).",
        f"On 2 of 3 networks interpolation predicts {rest} better than the path.",
        "No naive rival predicts CDNV better than the path on any of 2 networks.",
    ]


def test_where_it_loses_of_one_network_and_of_none():
    assert where_it_loses(judged_errors([comparison(off=OFF | {"interpolation": 0.3})])) == [
        f"No naive rival predicts {either} better than {model}."
        for either in ["ÑC1, NC1, CDNV, NC2, NC2 norms, NC2 angles, within share or eigenvalues"]
        for model in ("the path", "the pair optimum")
    ]
    table = judged_errors([comparison()])
    table.loc[{"model": "pair"}] = np.nan
    table.loc[{"model": "path", "quantity": "nc1"}] = 0.3
    said = where_it_loses(table.sel(quantity=["nc1"]))
    assert said == [
        "Interpolation predicts NC1 better than the path.",
        "There is no held-out prediction of the pair optimum to judge; parameters fitted to the "
        "layers themselves do not count.",
    ]


def test_an_equal_error_is_no_loss():
    table = judged_errors([comparison(off=dict.fromkeys(MODELS, 0.1))]).round(12)
    assert all(sentence.startswith("No naive rival") for sentence in where_it_loses(table))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([0.5, 0.25, math.nan], "NC1 falls from 0.5 (a) to 0.25 (b)"),
        ([math.nan, 0.1, 2.0], "NC1 rises from 0.1 (b) to 2 (c)"),
        ([1.0, 0.0, 1.0], "NC1 is 1 (a and c)"),
        ([math.nan, 1 / 3, math.nan], "NC1 is 0.333 (b)"),
        ([math.nan] * 3, "NC1 has no value to draw"),
    ],
)
def test_change(values, text):
    assert change("NC1", ["a", "b", "c"], values) == text


def test_figures_hold_the_numbers_of_the_comparison():
    data = comparison()
    figures = figures_of(data)
    assert list(figures) == ["collapse", "layers", "scatter", "time", "spectrum"]
    bars = figures["collapse"].figure["data"][2]
    np.testing.assert_array_equal(bars["y"], data["measured"].sel(quantity="nc1"))
    np.testing.assert_allclose(bars["error_y"]["array"], 0.1 * np.array(bars["y"]))
    np.testing.assert_allclose(bars["error_y"]["arrayminus"], 0.1 * np.array(bars["y"]))
    (line,) = figures["time"].figure["data"]  # none for the head, which is alone
    np.testing.assert_array_equal(line["y"], data["flow_time"])
    said = figures["time"].views[""]
    assert said == (
        "d = 64: flow time rises from 0.4 (blocks.0) to 1.7 (blocks.1); "
        "3 of 5 layers have no place: the table says why."
    )
    frame = figures["layers"].figure["frames"][2]["data"]  # NC1
    expected = data["predicted"].sel(quantity="nc1", model="shrinkage")
    np.testing.assert_array_equal(frame[3]["y"], expected)
    symbols = [trace["marker"]["symbol"] for trace in figures["scatter"].figure["data"][1:]]
    assert symbols[3][3] == "triangle-down-open"  # interpolation is given that layer
    assert not [s for own in symbols[:3] for s in own if "open" in s]
    assert list(figures["spectrum"].views) == data["layer"].values.tolist()
    frame = figures["spectrum"].figure["frames"][1]["data"]
    np.testing.assert_array_equal(frame[0]["y"], data["spectrum"].sel(layer="blocks.0"))
    symbols = {trace["marker"]["symbol"] for trace in figures["spectrum"].figure["data"]}
    assert len(symbols) == 6  # told apart without colour


def test_rounding_is_not_drawn_on_a_logarithmic_axis():
    data = comparison()
    data["measured"].loc[{"quantity": "nc2_etf"}] = 1e-16  # of two classes
    figures = figures_of(data)
    names = [trace["name"] for trace in figures["collapse"].figure["data"]]
    assert names == ["ÑC1", "ÑC1 in the span", "NC1", "CDNV"]
    assert "NC2 has no value" in figures["collapse"].views[""]
    assert np.isnan(figures["layers"].figure["frames"][4]["data"][0]["y"]).all()
    assert tables.measured_table(data).rows[0][6].value == 1e-16


def test_nothing_is_drawn_or_named_that_there_is_not():
    data = comparison()
    data["predicted"].loc[{"model": "pair"}] = np.nan
    data["predicted_spectrum"].loc[{"model": "pair"}] = np.nan
    figures = figures_of(data)
    for key in ("layers", "scatter", "spectrum"):
        assert "pair" not in [trace["name"] for trace in figures[key].figure["data"]]
    data["predicted"].loc[{"quantity": "nc1"}] = np.nan
    assert "NC1" not in figures_of(data)["layers"].views
    data["predicted"][:] = np.nan
    data["flow_time"][:] = np.nan
    data["regularization"][:] = np.nan
    assert list(figures_of(data)) == ["collapse", "spectrum"]
    data["spectrum"][:] = np.nan
    data["predicted_spectrum"][:] = np.nan
    data["measured"][:] = np.nan
    assert figures_of(data) == {}
    found = [part for part in sections(data)[-1].parts if isinstance(part, Table)]
    assert [table.key for table in found] == ["measured", "places"]


def test_a_comparison_without_intervals_and_with_a_note():
    data = comparison(intervals=False).assign_attrs({"recorded data": "digits"})
    assert collapse.collapse_figure(data).figure["data"][0].get("error_y") is None
    assert tables.measured_table(data).rows[1][2].text == "0.5"
    said = tables.provenance(data)
    assert (said["recorded data"], said["N"], said["placed by"]) == (
        "digits", "1437", "ÑC1 in the span",
    )  # fmt: skip
    assert said["pair parameters from"] == "other"
    del data.attrs["parameters_from"]
    assert "pair parameters from" not in tables.provenance(data)


def test_what_is_said_of_pairs():
    data = comparison()
    assert of_pairs(data) == [
        "The misfit of the optimum is 25% of that of the layer before (median of 3 pairs of "
        "layers); at 0 of 3 it is not the smaller one.",
        "It is proved to be the global optimum (r at most 1) at 3 of 3 pairs of layers.",
    ]
    data["residual"].loc["blocks.0"] = 0.8
    data["spectral_ratio"].loc[["blocks.0", "blocks.1"]] = 1.1
    said = of_pairs(data)
    assert "at 1 of 3 it is not" in said[0]
    assert "at 1 of 3 pairs" in said[1]
    data["residual"][:] = np.nan
    assert of_pairs(data) == []


def test_the_comparison_made_up_here_has_the_shape_of_a_real_one():
    start = random_problem(seed=1, counts=(3, 9, 6), dim=7).reduced.statistics
    other = random_problem(seed=2, counts=(3, 9, 6), dim=7).reduced.statistics
    real = compare_layers({"a": start, "b": other}, name="real", pairs=False)
    made = comparison(intervals=False)
    for name, variable in {**real.variables}.items():
        assert made[name].dims == variable.dims, name
        assert made[name].dtype.kind == variable.dtype.kind or variable.dtype == object, name
    assert set(made.variables) == set(real.variables)
    assert set(made.attrs) == set(real.attrs)
    for name in ("quantity", "model", "parameter", "index"):
        assert made[name].values.tolist() == real[name].values.tolist()
    assert set(words.MODELS) == set(MODELS)
    assert set(JUDGED) == {*errors(real)["quantity"].values.tolist()}


def test_what_cannot_be_reported_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "report.html"
    with pytest.raises(ValueError, match="at least one comparison, got none"):
        write_report([], path)
    with pytest.raises(ValueError, match=r"differ in name, got \['net', 'net'\]; rename"):
        write_report([comparison(), comparison()], path)
    broken = xr.Dataset(attrs={"name": "x", "metric": "nc1"})
    path.write_text("old")
    with pytest.raises((KeyError, AttributeError)):
        write_report([broken], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_verdict_says_how_near_what_is_best_and_what_to_distrust():
    data = comparison(sampling="1 of 5 layers, as head: few samples")
    verdict = verdict_of(data)
    assert list(verdict) == ["How near collapse", "Which prediction is best", "What to distrust"]
    near, best, doubts = verdict.values()
    assert near[0] == "head, the last layer: NC1 0.0804, ÑC1 0.0625 and CDNV 0.0893; 0 is collapse."
    assert near[1].startswith("There the variance within classes is 6.2 % of that of the class")
    assert near[2] == (
        "CDNV is below 0.2, where a layer counts as collapsed, at 2 of 5 layers, first at blocks.2."
    )
    assert best[0].endswith("within share and eigenvalues: interpolation, median error 0.03.")
    assert best[1] == "Judged at 2 of 2 held-out layers; an error of 0.1 is 10 %."
    assert "Medians over 2 layers say little." in doubts
    assert "The path does not come by 1 of 5 layers." in doubts
    assert doubts[-1] == "Finite sample: 1 of 5 layers, as head: few samples."
    assert not [line for line in doubts if "fitted to the layers" in line]  # parameters from other
    data["measured"] *= 100
    assert "No layer has CDNV below 0.2" in verdict_of(data)["How near collapse"][2]


def test_parameters_that_pairs_hardly_determine_are_named():
    data = comparison()
    data["fit_status"] = ("layer", ["", "converged", "converged", "converged", ""])
    data["standard_error"].loc[{"layer": "blocks.0", "parameter": "beta"}] = np.nan
    data["standard_error"].loc[{"layer": "blocks.1", "parameter": "beta"}] = 0.6
    doubts = verdict_of(data)["What to distrust"]
    assert "The pair's λ_W, λ_H and β are fitted to the layers that they describe." in doubts
    assert "Hardly determined by its 3 pairs: β at 2." in doubts
    data["path_status"] = data["path_status"].astype(object)
    data["path_status"][1] = "time_limit"
    doubts = verdict_of(data)["What to distrust"]
    assert "The fit of the path's λ_W did not converge (time limit)." in doubts


def test_one_judged_layer_has_no_best():
    data = comparison()
    data["predicted"].loc[{"model": "path", "layer": "blocks.1"}] = np.nan
    said = verdict_of(data)["Which prediction is best"]
    assert said == ["One layer can be judged: too few to call any prediction the best."]
    errors = judged_errors([data]).isel(network=0)
    assert int(errors["judged"]) == 1
    assert not [c for row in tables.errors_table(errors, "nc1_span").rows for c in row if c.best]
    data["predicted"].loc[{"model": "path"}] = np.nan
    assert verdict_of(data)["Which prediction is best"][0].endswith("none can be judged.")


def test_a_tie_is_shared():
    data = comparison(off=OFF | {"path": 0.0329})
    errors = judged_errors([data]).isel(network=0)
    best = [row[0].text for row in tables.errors_table(errors, "nc1_span").rows if row[3].best]
    assert best == ["path", "interpolation"]
    assert (
        "path and interpolation (within a tenth)" in verdict_of(data)["Which prediction is best"][0]
    )
    table = judged_errors([data, comparison("two"), comparison("three")])
    every = "ÑC1, NC1, CDNV, NC2, NC2 norms, NC2 angles, within share and eigenvalues"
    assert which_is_best(table)[0] == f"{every}: interpolation, on 3 of 3 networks."


def test_digits_stand_below_each_other_and_empty_columns_go():
    texts = ("0.0512", "12", "1e-16", "–")
    cells = [Cell(text, float(text) if text != "–" else "") for text in texts]
    rows = [[Cell("a", "a"), Cell("–", "", "why"), Cell("–", "", "why"), cell] for cell in cells]
    columns = {"layer": "", "gap": "", "empty": "", "x": ""}
    shown = Table("t", "t", columns, rows, kept=frozenset({"gap"})).shown()
    assert list(shown.columns) == ["layer", "gap", "x"]
    assert [row[2].pad for row in shown.rows] == ["", ".0512", "2", ""]
    assert [row[1].text for row in shown.rows] == ["–"] * 4

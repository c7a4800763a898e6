"""The report in a real browser, without a network."""

import csv
import io
import re
from xml.etree import ElementTree

import pytest
from comparisons import comparison
from playwright.sync_api import expect

from perturb_nc.show.report.page import write_report

SPECTRUM = "#network-1-spectrum"


@pytest.fixture(scope="module")
def data():
    return comparison(layers=("embed", "blocks.0", "<b>blocks.1", "blocks.2", "head"))


@pytest.fixture(scope="module")
def address(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report([data, comparison("two", off=dict.fromkeys(data["model"].values, 0.1))], path)
    assert path.stat().st_size < 6e6
    return path.as_uri()


@pytest.fixture(scope="module")
def visit(browser, address):
    """Open the page; in the end nothing was asked of the network and nothing went wrong."""
    contexts, requests, complaints = [], [], []

    def opened(*, unfold=True, **settings):
        context = browser.new_context(offline=True, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        if settings.get("java_script_enabled", True):
            page.wait_for_selector("html[data-ready]")
            if unfold:
                page.get_by_role("button", name="Unfold all networks").click()
        return page

    yield opened
    for context in contexts:
        context.close()
    assert {url for url in requests if not url.startswith("blob:")} == {address}
    assert complaints == []


@pytest.fixture(scope="module")
def page(visit):
    """For all tests that leave alone what the others look at."""
    return visit()


def points(page, figure):
    page.locator(figure).scroll_into_view_if_needed()
    page.wait_for_selector(f"{figure} .plot .main-svg .point")
    return page.locator(f"{figure} .plot .scatterlayer .point").count()


def drawn(page, figure=SPECTRUM):
    """The traces that plotly has drawn."""
    points(page, figure)
    return page.evaluate(f"document.querySelector('{figure} .plot').data")


def test_a_link_of_the_overview_opens_a_network_and_leads_back(visit):
    page = visit(unfold=False)
    assert page.locator("#network-2 figure:visible").count() == 0
    page.locator("#summary-all").get_by_role("link", name="two").click()
    expect(page.locator("#network-2 figure").first).to_be_visible()
    page.locator("#network-2").get_by_role("link", name="Back to all networks").click()
    expect(page.locator("#summary-title")).to_be_in_viewport()


def saved(page, selector):
    with page.expect_download() as download:
        page.locator(selector).click()
    return download.value.suggested_filename, download.value.path().read_text(encoding="utf8")


def column(page, table, number):
    return page.locator(f"#{table} tbody tr > :nth-child({number})").all_inner_texts()


def test_figures_are_drawn_as_vector_graphics_when_they_come_near(visit, data):
    page = visit()
    assert page.locator("#network-2-spectrum .main-svg").count() == 0
    assert points(page, "#network-1-collapse") == 5 * 5
    assert points(page, "#network-1-time") == 2
    assert points(page, "#network-1-layers") == 5 + 2 + 4 * 3
    assert points(page, "#network-1-scatter") == 2 + 4 * 3
    assert points(page, "#network-2-spectrum") == 20 * 6
    assert page.locator("canvas").count() == 0
    ticks = page.locator("#network-1-collapse .xtick text").all_text_contents()
    assert ticks == data["layer"].values.tolist()


def test_the_slider_moves_the_spectrum(page, data):
    slider = page.get_by_role("slider", name="Layer").first
    slider.focus()
    assert page.locator(f"{SPECTRUM} output").inner_text() == "<b>blocks.1"
    before = drawn(page)
    ticks = page.locator(f"{SPECTRUM} .ytick text").all_text_contents()
    page.keyboard.press("ArrowLeft")
    expect(page.locator(f"{SPECTRUM} output")).to_have_text("blocks.0")
    assert slider.get_attribute("aria-valuetext") == "blocks.0"
    after = drawn(page)
    for side, was in zip(after, before, strict=True):
        assert side["y"][0] == pytest.approx(2 * was["y"][0])
    assert after[0]["y"] == pytest.approx(data["spectrum"].sel(layer="blocks.0").values.tolist())
    assert page.locator(f"{SPECTRUM} .ytick text").all_text_contents() != ticks
    said = page.locator(f"{SPECTRUM} .summary").inner_text()
    assert said.startswith("blocks.0: the largest eigenvalue is 0.15 measured, 0.158 path")
    assert page.locator(f"{SPECTRUM} .plot").get_attribute("aria-label").endswith(said)
    page.keyboard.press("Home")
    assert points(page, SPECTRUM) == 20  # nothing predicts the first layer


def test_a_quantity_is_chosen_without_a_mouse(page, data):
    chooser = page.locator("#network-1-layers select")
    page.locator("#network-1-layers").scroll_into_view_if_needed()
    chooser.focus()
    page.keyboard.press("ArrowDown")  # from NC1
    measured = drawn(page, "#network-1-layers")[0]["y"]
    assert measured == pytest.approx(data["measured"].sel(quantity="cdnv").values.tolist())
    page.get_by_text("Errors of every network as tables").click()
    page.locator("#summary-errors").select_option("CDNV")
    shown = page.locator("#summary details[open] caption:visible").all_inner_texts()
    assert shown == ["CDNV: median |log(predicted/measured)|"]


def times(page):
    return [text.split()[0] for text in column(page, "network-1-places", 4)]


def test_tables_sort_by_keyboard(page):
    head = page.locator("#network-1-places th").nth(3)
    head.get_by_role("button", name="flow time t").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert times(page) == ["0.4", "1.7", "–", "–", "–"]
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert times(page) == ["1.7", "0.4", "–", "–", "–"]
    page.locator("#network-1-places th button").first.click()
    assert head.get_attribute("aria-sort") is None
    names = ["<b>blocks.1", "blocks.0", "blocks.2", "embed", "head"]
    assert column(page, "network-1-places", 1) == names


def test_colours_follow_the_system_and_the_choice(visit):
    page = visit()

    def colours():
        return page.evaluate(
            """() => {
              const plot = document.querySelector("#network-1-collapse .plot");
              const fill = (s) => getComputedStyle(plot.querySelector(s)).fill;
              const { backgroundColor } = getComputedStyle(document.body);
              return [backgroundColor, fill(".point"), fill("text")];
            }"""
        )

    points(page, "#network-1-collapse")
    light = colours()
    page.emulate_media(color_scheme="dark")
    expect(page.locator("#network-1-collapse .point").first).not_to_have_css("fill", light[1])
    dark = colours()
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert light[0] == "rgb(255, 255, 255)"
    page.get_by_label("Colours").select_option("light")
    expect(page.locator("#network-1-collapse .point").first).to_have_css("fill", light[1])
    assert colours() == light


@pytest.mark.slow
def test_ticks_stay_where_the_colours_shown_are_chosen(visit):
    """Not those of plotly's default range, as of a redraw in which nothing differs."""
    page = visit(color_scheme="light")
    points(page, "#summary-networks")
    ticks = page.locator("#summary-networks .xtick")
    numbers = ticks.all_text_contents()
    page.get_by_label("Colours").select_option("light")
    page.wait_for_timeout(50)
    assert ticks.all_text_contents() == numbers


def test_a_phone_shows_it_without_scrolling_sideways(visit):
    page = visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    for figure in ("collapse", "scatter", "spectrum"):
        points(page, f"#network-1-{figure}")
    page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
    expect(page.locator("#network-1-fit").locator("..")).to_have_class("scroll stacked")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    wider = page.locator(".scroll").evaluate_all(
        "boxes => boxes.filter((e) => e.scrollWidth > e.clientWidth).length"
    )
    assert wider == 0
    row = page.locator("#network-1-fit tbody tr").nth(1)  # a card: every cell with its name
    assert (
        row.locator("td").nth(0).evaluate("e => getComputedStyle(e, '::before').content") == '"r"'
    )
    for cell in row.locator("td").all():
        box = cell.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390


def test_downloads_are_the_data(page, data):
    points(page, "#network-1-scatter")
    name, text = saved(page, "#network-1-scatter [data-csv]")
    assert name == "network-1-scatter.csv"
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 8 * 5 * 5
    (row,) = (r for r in rows if (*r.values(),)[:3] == ("NC1", "pair", "<b>blocks.1"))
    at = {"quantity": "nc1", "layer": "<b>blocks.1"}
    assert float(row["measured"]) == float(data["measured"].sel(at))
    assert float(row["predicted"]) == float(data["predicted"].sel({**at, "model": "pair"}))
    name, text = saved(page, "#network-1-collapse [data-csv]")
    first = next(csv.DictReader(io.StringIO(text)))
    assert first == {
        "quantity": "ÑC1", "layer": "embed", "measured": "1", "low": "0.9", "high": "1.1",
    }  # fmt: skip
    name, text = saved(page, "[data-table=network-1-fit]")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert rows[1]["λ_W"] == "0.0512345"
    assert rows[0]["λ_W"] == ""
    name, text = saved(page, "#network-1-scatter [data-svg]")
    assert name == "network-1-scatter.svg"
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    found = [e for e in root.iter() if "point" in e.get("class", "").split()]
    assert len(found) in (0, 2 + 4 * 3)  # plotly may drop the class names
    assert "NC1 predicted" in "".join(root.itertext())


def test_every_control_has_a_name(page):
    tree = page.locator("body").aria_snapshot()
    roles = "button|combobox|slider|link|img|table|region|navigation|figure|heading"
    named = re.findall(rf"^\s*- '?({roles}) \"", tree, re.M)
    assert set(named) >= {"button", "combobox", "slider", "link", "img", "table", "region"}
    assert not re.findall(rf"^\s*- (?:{roles})(?: \[.*\])?:?$", tree, re.M)
    assert 'img "Spectrum of the within-class covariance' in tree


def test_without_scripts_tables_sentences_and_the_skip_link_remain(visit):
    page = visit(java_script_enabled=False)
    assert page.locator("noscript").inner_text().startswith("Figures, sorting and downloads need")
    page.locator("body").press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    assert skip.evaluate("e => e === document.activeElement")
    assert skip.evaluate("e => getComputedStyle(e).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    for title in page.locator("details > summary").all():
        title.click()
    assert page.locator("#network-1-measured").is_visible()
    assert page.locator("#summary table:visible").count() == 1 + 8
    assert page.locator("figure .summary:visible").count() == 11
    assert page.locator("button:visible").count() == 0
    assert page.locator("figure .control:visible").count() == 0

"""Report and explorer whole, in a real browser: three widths, light and dark, few and many layers.

Slow. `SCREENS=folder` keeps the screenshots, to be looked at.
"""

import os
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from comparisons import MODELS, bench, comparison
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.show.report.page import write_report
from perturb_nc.study.comparison import with_bench

pytestmark = pytest.mark.slow
CHECKS = (Path(__file__).parent.parent / "page_checks.js").read_text(encoding="utf8")
WIDTHS, SCHEMES = (1400, 768, 390), ("light", "dark")
DEEP = tuple(f"model.encoder.layers.{i}.feed_forward.output" for i in range(60))
LARGEST = 6e6  # bytes of a report of 27 networks


def many():
    """27 networks of a dozen layers, no two alike, with names of every length."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(27):
        name = f"fashion_mnist-resnet-bn-wd0.001-seed{i}" if i % 3 else f"net{i}"
        off = {model: float(rng.uniform(0.02, 0.5)) for model in MODELS}
        data = comparison(name, tuple(f"blocks.{j}" for j in range(12)), off)
        for part in ("measured", "predicted", "spectrum", "predicted_spectrum"):
            data[part] = data[part] * rng.lognormal(0, 0.1, data[part].shape)
        found.append(data)
    return found


REPORTS = {
    "one": lambda: [with_bench(comparison(), bench())],
    "sixty": lambda: [comparison("sixty", DEEP)],
    "27": many,
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Name → file, written once."""
    folder, written = tmp_path_factory.mktemp("reports"), {}

    def report(name):
        if name not in written:
            written[name] = folder / f"{name}.html"
            write_report(REPORTS[name](), written[name])
        return written[name]

    return report


@contextmanager
def opened(browser, address, width, scheme):
    """A page that complains of nothing."""
    complaints = []
    view = {"width": width, "height": 844 if width < 500 else 900}
    context = browser.new_context(viewport=view, color_scheme=scheme)
    page = context.new_page()
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


def scroll_through(page):
    """So that all is drawn that is drawn when it comes near."""
    height = page.evaluate("document.documentElement.scrollHeight")
    for top in range(0, height, 600):
        page.evaluate(f"scrollTo(0, {top})")
        page.wait_for_timeout(60)
    page.wait_for_function(
        "[...document.querySelectorAll('figure')].every("
        "(f) => !f.checkVisibility() || f.querySelector('.main-svg'))"
    )
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(100)


def screen(page, name):
    if folder := os.environ.get("SCREENS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", REPORTS)
def test_reports(browser, reports, name, width, scheme):
    file = reports(name)
    assert file.stat().st_size < LARGEST
    with opened(browser, file.as_uri(), width, scheme) as page:
        page.wait_for_selector("html[data-ready]")
        if name == "27":
            page.locator("details.network").first.evaluate("e => (e.open = true)")
        if name != "sixty":
            page.evaluate(
                "document.querySelectorAll('details:not(.network)').forEach((d) => (d.open = true))"
            )
        scroll_through(page)
        screen(page, f"report-{name}-{width}-{scheme}")
        assert page.evaluate(CHECKS) == []
        page.locator("#theme").select_option(scheme)
        page.wait_for_timeout(100)
        assert page.evaluate(CHECKS) == []  # drawn once more, in the same colours


@pytest.mark.parametrize("name", REPORTS)
def test_reports_on_paper(browser, reports, name, tmp_path):
    """As wide as A4 between margins: nothing is cut, and figures are drawn."""
    with opened(browser, reports(name).as_uri(), 718, "dark") as page:
        page.wait_for_selector("html[data-ready]")
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.wait_for_timeout(300)
        assert [fault for fault in page.evaluate(CHECKS) if "pixels high" not in fault] == []
        page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
        assert (tmp_path / "report.pdf").stat().st_size > 20_000


def layers(count, name="model.encoder.layers.{}.feed_forward.output"):
    dense = random_problem(seed=1, counts=(40, 60, 50), dim=12)
    start = pnc.ClassStatistics.from_features(0.15 * dense.reference.mT, dense.labels)
    times = [0.1 * (i + 1) for i in range(count - 1)]
    path = pnc.central_path_flow(start, lambda_w=0.1, lambda_h=0.0, times=times)
    found = [start, *(path.statistics(i) for i in range(count - 1))]
    return {name.format(i): statistics for i, statistics in enumerate(found)}


@pytest.fixture(scope="module")
def served():
    """Name → address of an explorer, served from this process."""
    pytest.importorskip("dash", reason="needs the extra `explore`")
    from werkzeug.serving import make_server

    from perturb_nc.show.explore.page import build_app

    servers = []

    def address(count):
        app = build_app(layers(count), title="a network")
        server = make_server("127.0.0.1", 0, app.server, threaded=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/"

    addresses = {count: address(count) for count in (3, 60)}
    yield addresses
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [3, 60])
def test_explorer(browser, served, count, width, scheme):
    with opened(browser, served[count], width, scheme) as page:
        page.wait_for_selector("#figure-weight .trace", state="attached")
        page.wait_for_function("document.querySelector('#proof').textContent.length > 20")
        page.wait_for_timeout(500)
        screen(page, f"explore-{count}-{width}-{scheme}")
        assert page.evaluate(CHECKS) == []

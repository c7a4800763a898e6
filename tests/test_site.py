"""The built site: strict, without network, its notebooks run, its formulas legible on a phone.

Slow, and skipped without the extra `docs`; what a browser sees, without `chromium`.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
REMOTE = r'<(?:script|img|iframe|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//'
WIDE = ("mathematics", "api/theory", "api/deep", "gallery", "index", "notebooks/own_network")
OVERPRINTED = """() => [...document.querySelectorAll("span.eqno")].filter((number) => {
  const formula = number.parentElement.querySelector("mjx-container").getBoundingClientRect();
  const box = number.getBoundingClientRect();
  return box.left < formula.right && box.right > formula.left
    && box.top < formula.bottom && box.bottom > formula.top;
}).map((number) => number.textContent)"""
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the site, built from nothing with every warning an error."""
    pytest.importorskip("myst_nb", reason="needs the extra `docs`, see `make docs`")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-E", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    result = subprocess.run(
        [*command, "-d", folder / "doctrees", DOCS, folder / "html"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder / "html"


def test_signatures_sources_and_mathematics_stand_in_the_reference(site):
    page = (site / "api" / "theory.html").read_text("utf8")
    assert "NearCollapseProblem" in page
    assert r"\frac{\lambda _{W}}{2K} |W|^{2}" in page
    assert 'class="viewcode-link' in page
    assert "copybutton.js" in page


def test_notebooks_are_kept_with_what_they_showed(site):
    for path in (DOCS / "notebooks").glob("*.md"):
        if path.stem != "index":
            (kept,) = (site / "_downloads").rglob(f"{path.stem}.ipynb")
            cells = json.loads(kept.read_text("utf8"))["cells"]
            shown = [out for cell in cells for out in cell.get("outputs", [])]
            assert any("image/png" in out.get("data", {}) for out in shown)
            assert not any(out["output_type"] == "error" for out in shown)


def test_no_page_asks_the_network(site):
    for path in site.rglob("*.html"):
        assert not re.search(REMOTE, path.read_text("utf8")), path.name


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser `chromium`")
@pytest.mark.parametrize("width", [390, 768, 1300])
def test_formulas_are_legible_at_every_width(site, width):
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(180_000)  # mathematics of a whole page, on a busy machine
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        for name in WIDE:
            page.goto((site / f"{name}.html").as_uri())
            if page.query_selector("div.math"):
                page.wait_for_selector("div.math mjx-container")
                page.evaluate("() => MathJax.startup.promise")
            assert page.evaluate("document.querySelectorAll('mjx-merror').length") == 0, name
            assert page.evaluate(OVERPRINTED) == [], name
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        browser.close()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]

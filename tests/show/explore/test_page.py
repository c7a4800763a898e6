"""The page of `perturb-nc explore`: what it shows, how it is served, and in a real browser."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from importlib.resources import files

import pytest

import perturb_nc as pnc
from perturb_nc.study.explorer import Explorer

pytest.importorskip("dash", reason="needs the extra `explore`")
from explored import START, network, request, shown, texts
from shown import ARGUMENTS, CHROMIUM

from perturb_nc.show.explore import figures
from perturb_nc.show.explore.page import build_app, predicted
from perturb_nc.show.explore.page import shown as shown_of
from perturb_nc.show.explore.scales import SCALES


@pytest.fixture(scope="module")
def layers():
    return network(12)


@pytest.fixture(scope="module")
def explorer(layers):
    return Explorer(layers)


@pytest.fixture
def file(layers, tmp_path):
    pnc.save_layers(layers, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def words(explorer, layer="one", **stops):
    answer = shown(explorer, layer, START | stops)
    names = ("proof", "facts", "remarks", "numbers")
    return {name: texts(part) for name, part in zip(names, answer[7:11], strict=True)}


def zero(name):
    assert SCALES[name].values[0] == 0
    return {name: 0}


def test_stops_are_even_in_the_log():
    scale = SCALES["beta"]
    assert scale.values[:2] == [0.0, 0.01]
    assert scale.values[-1] == 1000
    assert scale.values[21] == pytest.approx(0.1)
    assert scale.values[scale.start] == pytest.approx(2, rel=0.06)
    assert SCALES["lambda_w"].values[0] == 1e-4  # 0 has no meaning there


def test_the_page_shows_what_the_library_computes(explorer, layers):
    at = {name: scale.values[START[name]] for name, scale in SCALES.items()}
    time = at.pop("time")
    solution = pnc.minimize(pnc.NearCollapseProblem(layers["one"], **at))
    predicted = pnc.collapse_metrics(solution.statistics)
    at.pop("beta")
    path = pnc.central_path_flow(layers["one"], **at, times=[time]).metrics[0]
    answer = shown(explorer, "one", START)[:11]
    *panels, spectrum, weight, _, facts, remarks, table = answer
    for metric, panel in zip(figures.METRICS, panels, strict=True):
        drawn = {trace["name"]: (trace["x"], trace["y"]) for trace in panel["data"]}
        measured = [getattr(pnc.collapse_metrics(s), metric) for s in layers.values()]
        assert drawn["measured"] == ([0, 1, 2], pytest.approx(measured, rel=1e-5))
        for name, expected, rtol in (("optimum", predicted, 1e-5), ("path", path, 1e-2)):
            ends = [measured[0], getattr(expected, metric)]
            assert drawn[name] == ([0, 1], pytest.approx(ends, rel=rtol))
        assert f"{getattr(predicted, metric):.4g}" in texts(table)
    assert [t["name"] for t in spectrum["data"]] == [
        "one, measured",
        "two, measured",
        "optimum",
        "path",
    ]
    assert len(weight["data"][0]["y"]) == 3
    assert f"{solution.objective:.8g}" in texts(facts)
    assert f"{solution.certificate.spectral_ratio:.6g}" in texts(facts)
    assert not remarks


def test_a_move_is_answered_at_once_and_then_exactly(layers):
    explorer = Explorer(layers)
    at = {name: scale.values[START[name]] for name, scale in SCALES.items()}
    at.pop("time")
    near = pnc.small_vicinity(layers["one"], **at)
    found = predicted(explorer, "one", START, exact=False)
    assert not found.is_final
    *panels, spectrum, weight, promise, facts, _, table = shown_of(explorer, "one", found)[:11]
    assert panels[0]["data"][-1]["name"] == "first order"
    assert f"{near.metrics.nc1:.4g}" in texts(table)
    assert f"{max(near.remainder.values()):.2g}" in promise
    assert "the exact optimum follows" in promise
    assert near.status.value in texts(facts)
    assert len(weight["data"][0]["y"]) == 3
    assert [t["name"] for t in spectrum["data"]] == ["one, measured", "two, measured"]
    # What is known is exact at once; so is what has no closed form.
    predicted(explorer, "one", START)
    for known in (START, START | zero("beta"), START | zero("time")):
        assert predicted(explorer, "one", known, exact=False).is_final
    moved = START | {"beta": START["beta"] + 1}
    found = predicted(explorer, "one", moved, exact=False)
    assert (found.is_final, found.path is None) == (False, False)  # its path is that of before


def test_the_last_layer_is_followed_by_its_prediction_alone(explorer):
    *panels, spectrum, _, _, _, _, table = shown(explorer, "three", START)[:11]
    assert panels[0]["data"][-1]["x"] == [2, 3]
    assert panels[0]["layout"]["xaxis"]["ticktext"] == ["one", "two", "three", "(next)"]
    assert [t["name"] for t in spectrum["data"]] == ["three, measured", "optimum", "path"]
    assert texts(table).startswith("metric three, measured optimum path")


def test_the_certificate_is_put_into_words(explorer):
    last = {name: len(scale.values) - 1 for name, scale in SCALES.items()}
    assert "the only global optimum" in words(explorer, lambda_w=last["lambda_w"])["proof"]
    bent = words(explorer, lambda_w=20, lambda_h=20, beta=21)
    assert "Not proved to be the global optimum (r = " in bent["proof"]
    assert "not proved" in bent["facts"]


def test_settings_without_a_solution_are_said_in_plain_words(explorer):
    said = words(explorer, **zero("lambda_h"), **zero("beta"))
    assert said["remarks"] == (
        "No optimum here: lambda_h and beta must not both be 0: nothing would bound the features."
    )
    assert said["proof"] == said["facts"] == ""
    assert "–" in said["numbers"]
    answer = shown(explorer, "one", START | zero("lambda_h") | zero("beta"))
    assert [t["name"] for t in answer[0]["data"]] == ["measured", "reference", "path"]
    assert answer[6]["data"][0]["y"] == []


def test_collapse_is_an_optimum_like_others(explorer):
    last = {name: len(SCALES[name].values) - 1 for name in ("lambda_w", "lambda_h")}
    said = words(explorer, **zero("beta"), **last)
    assert "The optimum is zero: at β = 0 and λ_W λ_H = 100 ≥ 1" in said["remarks"]
    assert "–" in said["numbers"]
    said = words(explorer, **zero("beta"))
    assert "exactly collapsed, Σ_W = 0" in said["remarks"]
    assert "undefined" not in said["numbers"]
    here = words(explorer, **zero("time"))["numbers"].split()  # the path has not left
    row = here[here.index("NC1") :][:5]
    assert row[1] == row[4]


def test_the_callback_answers_a_move_with_its_number(layers):
    app = build_app(layers, title="net")
    client = app.server.test_client()
    move = {"number": 7, "layer": "two", "stops": START, "exact": True, "fit": False}
    answer = client.post("/_dash-update-component", json=request(app, move))
    assert answer.status_code == 200
    response = json.loads(answer.data)["response"]
    assert response["answered"] == {"data": {"number": 7, "exact": True, "stops": START}}
    assert response["figure-nc1"]["figure"]["data"][2]["name"] == "optimum"
    assert re.fullmatch(r"This move: \d+ ms", response["speed"]["children"])
    nothing = client.post("/_dash-update-component", json=request(app, None))
    assert nothing.status_code == 204
    page = client.get("/").text
    for source in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert source.startswith("/"), source
        with client.get(source) as file:
            assert file.status_code == 200, source
    assert '<html lang="en">' in page


def test_the_title_is_no_markup_of_the_page(layers):
    app = build_app(layers, title="</title><script>alert(1)</script>")
    assert "<script>alert" not in app.server.test_client().get("/").text


@pytest.fixture
def page(tmp_path):
    """A page on a served network, with what it asked for and complained about."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    pnc.save_layers(network(96), tmp_path / "net.safetensors")
    code = "from perturb_nc.cli.main import main; main()"
    command = [sys.executable, "-c", code, "explore", tmp_path / "net.safetensors", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    served = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        address = served.stdout.readline().split()[0]
        with api.sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
            tab = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
            tab.complaints, tab.asked = [], []
            tab.on(
                "console", lambda m: tab.complaints.append(m.text) if m.type == "error" else None
            )
            tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
            tab.on("request", lambda r: tab.asked.append(r))
            tab.add_init_script(WATCH)
            tab.goto(address)
            tab.wait_for_selector("#facts dd")
            yield tab
            assert all(r.url.startswith((address, "data:", "blob:")) for r in tab.asked)
            browser.close()
    finally:
        served.send_signal(signal.SIGINT)
        _, err = served.communicate(timeout=20)
    assert (served.returncode, err) == (0, "")


WATCH = """
window.flight = { now: 0, most: 0, stops: [], late: 0, dragging: true };
const send = window.fetch;
window.fetch = (url, options) => {
  if (!String(url).includes("update-component")) return send(url, options);
  const asked = JSON.parse(options.body).inputs[0].value;
  flight.now += 1;
  flight.most = Math.max(flight.most, flight.now);
  if (asked) flight.stops.push(asked.stops);
  if (!flight.dragging) flight.late += 1;
  return send(url, options).finally(() => { flight.now -= 1; });
};
"""
DRAG = """
async ([name, stops]) => {
  const slider = document.getElementById(name);
  const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
  for (const stop of stops) {
    set.call(slider, stop);
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    await new Promise((done) => setTimeout(done, 16));
  }
  flight.dragging = false;
}
"""


def test_a_browser_moves_the_prediction(page):
    def said(selector):
        return page.inner_text(selector)

    # Every slider has a name and says its value, not its stop.
    for scale in SCALES.values():
        slider = page.get_by_role("slider", name=scale.label, exact=True)
        value = f"{scale.values[scale.start]:.3g}"
        assert slider.get_attribute("aria-valuetext") == value
    assert page.get_by_role("button", name="Reference layer one").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    # By keyboard.
    before = said("#numbers")
    page.focus("#lambda_w")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "text => document.getElementById('numbers').innerText !== text", arg=before
    )
    assert said("#lambda_w-value") == f"{SCALES['lambda_w'].values[START['lambda_w'] + 1]:.3g}"
    # 60 moves a second, once over the slider and back: never two requests at a time, and after the
    # last move at most one more, and the exact one.
    sent = page.evaluate("flight.stops.length")
    stops = [*range(100, 0, -1), *range(1, 41)]
    page.evaluate(DRAG, ["beta", stops])
    page.wait_for_function("() => flight.now === 0 && flight.stops.at(-1).beta === 40")
    flight = page.evaluate("flight")
    assert 3 < len(flight["stops"]) - sent <= len(stops)
    assert flight["most"] == 1
    assert flight["late"] <= 2
    assert said("#beta-value") == f"{SCALES['beta'].values[40]:.3g}"
    layers = network(96)
    at = {name: scale.values[START[name]] for name, scale in SCALES.items() if name != "time"}
    at |= {"beta": SCALES["beta"].values[40]}
    at |= {"lambda_w": SCALES["lambda_w"].values[START["lambda_w"] + 1]}
    solution = pnc.minimize(pnc.NearCollapseProblem(layers["one"], **at))
    expected = f"{pnc.collapse_metrics(solution.statistics).nc1:.4g}"
    page.wait_for_function(
        "text => document.getElementById('numbers').innerText.includes(text)", arg=expected
    )
    assert page.title() == "net.safetensors · perturb-nc"
    # The address restores the state, and sliders move to what fits the layer after.
    page.wait_for_function("() => location.hash.includes('beta=40')")
    address = page.url
    page.get_by_role("button", name="Fit the layer after").click()
    page.wait_for_function("() => !location.hash.includes('beta=40')", timeout=60_000)
    assert "fitted best by" in said("#remarks")
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_function("() => document.querySelector('#beta')?.value === '40'")
    page.wait_for_function(
        "text => document.getElementById('numbers').innerText.includes(text)", arg=expected
    )
    assert page.evaluate("!('busy' in document.documentElement.dataset)")
    with page.expect_download() as download:
        page.get_by_role("button", name="Data (CSV)").click()
    assert download.value.path().read_text(encoding="utf8").count("\n") > 20
    assert page.complaints == []
    # Where the server has gone the next move says so.
    page.context.set_offline(True)
    page.focus("#beta")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.getElementById('sign').textContent.includes('again')")


def test_the_data_that_is_downloaded_holds_no_formulas():
    """The page's own code: a layer's name that a spreadsheet would run has an apostrophe."""
    if (node := shutil.which("node")) is None:
        pytest.skip("needs node")
    code = (files("perturb_nc.show.explore") / "assets" / "explore.js").read_text("utf8")
    csv = re.search(r"const csv = \(\) => \{.*?\n  \};", code, re.S)[0]
    traces = [{"name": "=1+1, measured", "x": [1], "y": [-1.5]}, {"name": "@a", "x": [2], "y": [3]}]
    figure = f"{{getAttribute: () => 'a', querySelector: () => ({{data: {json.dumps(traces)}}})}}"
    document = f"const document = {{querySelectorAll: () => [{figure}]}};"
    program = f"{document}\n{csv}\nprocess.stdout.write(csv())"
    run = subprocess.run([node, "-e", program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[1:] == [
        '"a","\'=1+1, measured","1","-1.5"',
        '"a","\'@a","2","3"',
    ]

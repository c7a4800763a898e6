"""What results say of themselves: short, no tensors, true, and safe as HTML."""

import dataclasses
import html.parser
import importlib
import re

import pytest
import torch

import perturb_nc as pnc
from perturb_nc import deep
from perturb_nc.study.models import model_of
from perturb_nc.summary import Summarised, Tabular, brief, tally

SETTING = {"lambda_w": 0.02, "lambda_h": 0.01, "beta": 0.3}


def features(scale):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(80) % 4
    noise = torch.randn(80, 12, generator=generator, dtype=torch.float64)
    return scale * noise + torch.eye(4, 12, dtype=torch.float64)[labels], labels


def fitted(s, solution):
    errors = {"beta": {"beta": 0.04}}
    residuals = {"means_error": 0.1, "within_error": 0.2, "residual": 0.3, "unchanged": 0.4}
    end = {"at_bound": {}, "steps": 5, "status": pnc.Status.CONVERGED}
    model = model_of(s, "squared")
    return pnc.study.RegularizationFit(
        **SETTING,
        **residuals,
        **end,
        model=model,
        observed=s,
        covariance=errors,
        solution=solution,
    )


@pytest.fixture(scope="module")
def results():
    """One of every kind, by name."""
    x, labels = features(0.1)
    s = pnc.ClassStatistics.from_features(x, labels)
    problem = pnc.NearCollapseProblem(s, **SETTING)
    solution = pnc.minimize(problem)
    path = pnc.central_path_flow(s, lambda_w=0.1, lambda_h=0.01, times=[0.0, 0.5, 1.0])
    layers = {"<script>&": s} | {f"layer{i}": path.statistics(i) for i in (1, 2)}
    few, of_few = x[:24], labels[:24]
    entropy = pnc.CrossEntropyProblem(few, of_few, **SETTING)
    settled = pnc.minimize(entropy)
    anchored = deep.AnchoredDeepProblem(s, **SETTING, num_layers=2)
    model = deep.DeepUFM([0, 0, 1, 1], (5, 4), lambdas=0.01, lambda_h=0.01)
    return {
        "statistics": s,
        "span": pnc.measure.SpanStatistics.from_features(x, labels),
        "joint": pnc.measure.JointStatistics(s, s, s.within),
        "metrics": pnc.collapse_metrics(s),
        "nearest": pnc.measure.NearestMeanScores(0.9, 0.1),
        "problem": problem,
        "solution": solution,
        "certificate": solution.certificate,
        "point": problem.at(solution.weight),
        "batch": pnc.minimize_batch(
            s, lambda_w=[0.02] * 3, lambda_h=[0.01] * 3, beta=[0.1, 0.3, 1.0]
        ),
        "path": path,
        "cascade": pnc.cascade(s, lambda_w=0.1, lambda_h=0.01, betas=[4.0, 4.0]),
        "linear": pnc.linear_response(solution, x, labels),
        "hyperparameters": pnc.hyperparameter_response(solution),
        "vicinity": pnc.small_vicinity(s, **SETTING),
        "spectrum": pnc.near_collapse_spectrum(
            num_classes=4, dim=12, samples_per_class=5, **SETTING
        ),
        "collapse": pnc.exact_collapse(num_classes=4, dim=12, lambda_w=0.02, lambda_h=0.01),
        "cross-entropy problem": entropy,
        "cross-entropy solution": settled,
        "cross-entropy response": pnc.linear_response(settled, few, of_few),
        "depth": pnc.calibrate_depth(layers, lambda_w=0.1, lambda_h=0.01),
        "fit": fitted(s, solution),
        "predicted": pnc.study.predict_layers({"a": s}, **SETTING)["a"],
        "anchored problem": anchored,
        "anchored": deep.minimize_anchored(anchored, restarts=0, max_steps=3),
        "training": deep.gradient_descent(model, learning_rate=0.1, max_steps=3),
    }


class Parser(html.parser.HTMLParser):
    """Refuses tags that do not close in order; collects the text."""

    def __init__(self):
        super().__init__()
        self.open, self.words, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parsed(page):
    parser = Parser()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_every_result_prints_in_a_thousand_characters_and_holds_no_tensor(results):
    for name, result in results.items():
        text = repr(result)
        assert text.startswith(f"{type(result).__name__}("), name
        assert len(text) <= 1000, name
        assert "tensor" not in text, name
        assert "\n" not in text, name


def test_every_result_is_a_table_in_a_notebook(results, monkeypatch):
    # Pictures are there once somebody has imported show.notebook.
    monkeypatch.setattr("perturb_nc.summary.picture", lambda result: "")
    for name, result in results.items():
        page = parsed(result._repr_html_())
        assert {"table", "tr", "th", "td"} <= page.tags <= {
            "div", "table", "caption", "b", "thead", "tbody", "tr", "th", "td",
        }, name  # fmt: skip
        assert type(result).__name__ in page.words, name
        assert len("".join(page.words)) < 5000, name


def test_public_dataclasses_with_tensors_print_short():
    for face in ("", ".theory", ".study", ".measure", ".deep"):
        module = importlib.import_module("perturb_nc" + face) if face != ".deep" else deep
        for name in module.__all__:
            kind = getattr(module, name)
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                text = str([f.type for f in dataclasses.fields(kind)])
                if re.search("Tensor|Statistics|Solution|Rows|NDArray", text):
                    assert issubclass(kind, Summarised), name


def test_numbers_are_those_of_the_result(results):
    s, solution = results["statistics"], results["solution"]
    nc1 = s.within.trace() / s.between.trace()
    assert f"nc1_trace={nc1:.4g}" in repr(s)
    assert "num_samples=80, imbalance=1, num_classes=4, dim=12" in repr(s)
    text = repr(solution)
    assert f"objective={solution.objective:.4g}" in text
    assert f"nc1={solution.metrics.nc1:.4g}" in text
    assert f"status=CONVERGED, certificate={solution.certificate}" in text
    assert "lambda_w=0.02, lambda_h=0.01, beta=0.3, bias=False" in text
    assert "status={CONVERGED: 3}" in repr(results["batch"])
    assert "beta=[0.1, 1]" in repr(results["batch"])
    assert "features_dim=12" in repr(results["span"])
    assert "first_nc1_trace" in repr(results["joint"])
    assert "standard_error={beta: 0.2}, certificate=global" in repr(results["fit"])


def test_a_certificate_says_what_it_proves():
    proved = pnc.theory.Certificate(0.5, 1.0, 0.0, True)
    assert str(proved) == "global optimum, r = 0.5"
    open_ = pnc.theory.Certificate(1.5, 0.9, 0.1, False)
    assert str(open_) == "within 0.1 of the global optimum, r = 1.5"


def test_names_are_text_in_html(results):
    page = results["depth"]._repr_html_()
    assert "<script>" not in page
    assert "<script>&" in parsed(page).words


def test_a_status_says_what_to_do_in_a_notebook(results):
    bent = dataclasses.replace(results["solution"], status=pnc.Status.MAX_STEPS)
    assert "raise max_steps" in bent._repr_html_()
    assert "status=MAX_STEPS," in repr(bent)


def test_rows_of_a_path(results):
    path = results["path"]
    frame = path.to_dataframe()
    assert list(frame.index) == path.times.tolist()
    assert list(frame["nc1"]) == [m.nc1 for m in path.metrics]
    assert "nc3_duality" not in frame
    table = path.to_xarray()
    assert dict(table.sizes) == {"time": 3}
    assert table["cdnv"].values.tolist() == [m.cdnv for m in path.metrics]


def test_rows_of_a_batch(results):
    batch = results["batch"]
    frame = batch.to_dataframe()
    assert list(frame["beta"]) == [0.1, 0.3, 1.0]
    assert list(frame["nc3_duality"]) == batch.metrics["nc3_duality"].tolist()
    assert set(frame["status"]) == {"CONVERGED"}
    assert dict(batch.to_xarray().sizes) == {"setting": 3}


def test_rows_of_a_calibration(results):
    depth = results["depth"]
    frame = depth.to_dataframe()
    assert frame.loc[("layer2", "measured"), "nc1"] == depth.measured["layer2"].nc1
    assert frame.loc[("layer2", "path"), "cdnv"] == depth.path.metrics["layer2"].cdnv
    assert frame.loc[("layer2", "path"), "flow_time"] == depth.times["layer2"]
    table = depth.to_xarray()
    assert table["nc1"].sel(layer="layer1", side="path") == depth.path.metrics["layer1"].nc1
    assert table["nc1"].sel(layer="<script>&", side="path").isnull()  # where the path starts


class Long(Tabular):
    _index = ("row",)

    def _summary(self):
        return {"text": "x" * 3000, **{f"name{i}": "y" * 50 for i in range(40)}}

    def _columns(self):
        return {"row": [*range(40)], "nc1": [0.5] * 40}


def test_what_is_long_is_cut():
    assert len(repr(Long())) == 1000
    words = parsed(Long()._repr_html_()).words
    assert "… 28 more: to_dataframe()" in words
    assert "12" not in words


def test_values_in_a_few_characters():
    assert brief(torch.zeros(3, 4)) == "3×4"
    assert brief(torch.tensor(0.123456)) == "0.1235"
    assert brief({"a": 1.0, "b": None}) == "{a: 1, b: None}"
    assert brief(dict.fromkeys("abcde")) == "{5 entries}"
    assert brief([0.5, pnc.Status.EVENT]) == "[0.5, EVENT]"
    assert brief([*range(9)]) == "[9 entries]"
    assert len(brief("x" * 100)) == 60
    assert tally([pnc.Status.EVENT, pnc.Status.STALLED, pnc.Status.STALLED]) == {
        "STALLED": 2,
        "EVENT": 1,
    }

"""The experiments that hold the theory against networks, and what they committed."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import perturb_nc as pnc

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT))
from experiments import (  # noqa: E402
    equal_width,
    equi_separation,
    small_vicinity,
    theories_of_depth,
    transfer,
    weight_decay_theory,
)
from perturb_nc.study import bench_table, separation_law, theories  # noqa: E402


def run(module, monkeypatch, output):
    monkeypatch.setattr(sys, "argv", [module.__name__, "--quick", "--output", str(output)])
    module.main()
    return json.loads((output / "result.json").read_text(encoding="utf8"))


@pytest.mark.slow
def test_predicted_effects_of_weight_decay_are_those_of_the_model(monkeypatch, tmp_path, capsys):
    result = run(weight_decay_theory, monkeypatch, tmp_path)
    assert "| nc1 | last layer x2 |" in capsys.readouterr().out
    layers = pnc.load_layers(tmp_path / "seed1.safetensors")
    before, last = (layers[f"baseline/blocks.{i}"] for i in (0, 1))
    found = result["runs"][1]
    own = pnc.collapse_metrics(layers["features x5/blocks.1"]).nc1
    ratio = math.log(own / pnc.collapse_metrics(last).nc1)
    assert found["measured"]["features x5"]["nc1"] == pytest.approx(ratio, rel=1e-12)
    # λ_W = K·wd is given; λ_H and β are those that fit; five times the head's decay is five λ_W.
    fit = pnc.fit_regularization(before, last, lambda_w=0.01)
    problems = [
        pnc.NearCollapseProblem(before, lambda_w=w, lambda_h=fit.lambda_h, beta=fit.beta)
        for w in (0.01, 0.05)
    ]
    base, more = (pnc.collapse_metrics(pnc.minimize(p).statistics).nc1_trace for p in problems)
    step = found["predicted"]["one step"]["last layer x5"]["nc1_trace"]
    assert step == pytest.approx(math.log(more / base), rel=1e-6)
    seeds = [run["measured"]["last layer x2"]["nc2_etf"] for run in result["runs"]]
    summary = result["summary"]["nc2_etf"]["last layer x2"]["measured"]
    assert summary["mean"] == pytest.approx(np.mean(seeds))
    assert summary["error"] == pytest.approx(np.std(seeds, ddof=1) / 2**0.5)
    # Statistics that are there are read; those of another configuration are refused.
    (tmp_path / "result.json").unlink()
    monkeypatch.setattr(sys, "argv", ["weight_decay_theory", "--output", str(tmp_path)])
    with pytest.raises(ValueError, match="is of another configuration; delete it"):
        weight_decay_theory.main()


def test_the_committed_effects_say_what_the_page_says():
    path = ROOT / "experiments" / "results" / "weight_decay_theory" / "result.json"
    summary = json.loads(path.read_text(encoding="utf8"))["summary"]
    page = (ROOT / "docs" / "experiments.md").read_text(encoding="utf8")
    names = {"nc1": "NC1", "nc1_trace": "ÑC1", "nc2_etf": "NC2"}
    for metric, label in names.items():
        for change, row in summary[metric].items():
            measured, *predicted = (
                f"{v['mean']:+.3f}".replace("0.", ".", 1).replace("-", "−") for v in row.values()
            )
            error = f"{row['measured']['error']:.3f}".lstrip("0")
            cells = " | ".join([f"{measured} ± {error}", *predicted])
            assert f"| {label} | {change.replace('x', '×')} | {cells} |" in page


def test_the_last_stage_of_the_equal_width_network_is_kept(monkeypatch, tmp_path, small_cifar10):
    result = run(equal_width, monkeypatch, tmp_path)
    layers = pnc.load_layers(tmp_path / "resnet-cifar10-mse-seed0.safetensors")
    assert [s.dim for s in layers.values()] == [8, 8]
    (only,) = result["runs"]
    assert list(only["final"]) == list(layers) == ["blocks.1", "blocks.2"]
    assert {s.num_samples for s in layers.values()} == {200}


@pytest.mark.slow
def test_theories_of_depth_are_held_against_shipped_and_trained_networks(
    monkeypatch, tmp_path, capsys
):
    for name, value in (("_STARTS", (-2.0,)), ("_STEPS", (2.0,)), ("_LIMITS", (-2.0, 0.0))):
        monkeypatch.setattr(theories, name, value)  # few values of λ_W
    result = run(theories_of_depth, monkeypatch, tmp_path)
    assert "| equal_width/resnet-cifar10-cross_entropy | 7 of 8 |" in capsys.readouterr().out
    found = result["placed"]["nc1_span"]
    trained = [row for row in found["networks"] if "straightness" in row]
    names = [row["network"] for row in trained]
    assert names == ["res8-seed0", "res8-bn-seed0", "res8-ce-seed0", "res8-bn-ce-seed0"]
    for row in trained:
        assert 1 <= row["straightness"]["line_shape"] < 1.5
        assert 1 <= row["straightness"]["path_ratio"] < 1.5
        assert 1 <= row["stages"][0]["line_shape_of_means"] < 1.5
    table = bench_table([theories_of_depth.loaded(found["bench"])])
    assert table["network"].values.tolist() == ["equal_width/resnet-cifar10-cross_entropy", *names]
    lines = table["error"].sel(model="straight_line", quantity="nc1")
    assert lines.isnull().values.tolist() == [True, False, False, False, False]


BENCH = ROOT / "experiments" / "results" / "theories_of_depth"


@pytest.mark.parametrize(("metric", "shipped", "trained"), [("nc1_span", 29, 12), ("nc1", 2, 6)])
def test_the_committed_tables_and_the_page_are_of_the_committed_predictions(
    metric, shipped, trained
):
    benches, networks = theories_of_depth.placed(BENCH, metric)
    table = bench_table(benches)
    written = (BENCH / f"table_{metric}.md").read_text(encoding="utf8")
    assert theories_of_depth.markdown(table) == written
    assert table.sizes["network"] == len(networks) == shipped + trained
    assert sum("straightness" in row for row in networks) == trained
    page = (ROOT / "docs" / "depth.md").read_text(encoding="utf8")
    for line in theories_of_depth.summary(table, metric).splitlines():
        assert line in page


@pytest.mark.slow
def test_parameters_are_transferred_to_epochs_samples_seeds_and_decays(monkeypatch, tmp_path):
    result = run(transfer, monkeypatch, tmp_path)
    targets = [row["target"] for row in result["rows"]]
    assert targets == ["epoch 4", "test samples", "another seed", "decay 0.005"]
    source = pnc.load_comparison(tmp_path / "source.json")
    assert source["fit_status"].values[1] in ("converged", "not_determined")
    first = result["rows"][0]["errors"]
    assert first["pairs, own (not held out)"] != first["pairs, source's"]
    assert "| epoch 4 | unchanged |" in (tmp_path / "table.md").read_text(encoding="utf8")


def test_the_committed_transfer_is_what_the_page_says():
    path = ROOT / "experiments" / "results" / "transfer" / "result.json"
    page = (ROOT / "docs" / "depth.md").read_text(encoding="utf8")
    for row in json.loads(path.read_text(encoding="utf8"))["rows"]:
        nc1 = [values[0] for values in row["errors"].values()]
        trace = [row["errors"][case][1] for case in ("pairs, source's", "unchanged")]
        cells = " | ".join(f"{v:.3f}".lstrip("0") for v in [*nc1, *trace])
        assert f"| {row['target'].replace('0.005', '5e-3')} | {cells} |" in page


def test_one_direction_of_the_class_means_keeps_the_trace_ratio_up_in_the_equal_width_network():
    folder = ROOT / "experiments" / "results" / "equal_width"
    shares, along, others = [], [], []
    for s in pnc.load_layers(folder / "resnet-cifar10-mse-seed0.safetensors").values():
        _, sizes, directions = torch.linalg.svd(s.centered_means, full_matrices=False)
        sizes, directions = sizes[:-1].square(), directions[:-1]  # K - 1 of them
        ratios = s.num_classes * ((directions @ s.within) * directions).sum(1) / sizes
        shares.append((sizes[0] / sizes.sum()).item())
        along.append(ratios[0].item())
        others.append(ratios[1:].mean().item())
    assert 0.815 < min(shares[1:5]) < max(shares[1:5]) < 0.905
    assert along[0] == pytest.approx(2.2, abs=0.05)
    assert max(along) == along[2] == pytest.approx(7.6, abs=0.05)
    assert others == sorted(others, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "digits-res-wd0.001",
        *(f"fashion_mnist-res-{x}" for x in ("wd0.001", "wd0.0002", "bn-wd0.001")),
    ],
)
def test_a_bias_hardly_changes_what_the_path_predicts(name):
    folder = ROOT / "experiments" / "results"
    layers = pnc.load_layers(folder / "depth_calibration" / f"{name}.safetensors")
    centred = {n: s.moved(s.centered_means, s.within) for n, s in layers.items()}
    without = pnc.compare_layers(layers, name=name, pairs=False)
    found = pnc.compare_layers(centred, name=name, pairs=False)
    table = pnc.error_table([without, found]).sel(model="path", quantity="nc1").values
    assert abs(table[0] - table[1]) < 0.005


@pytest.mark.slow
def test_the_law_of_equi_separation_is_looked_for(monkeypatch, tmp_path):
    result = run(equi_separation, monkeypatch, tmp_path)
    assert [row["kind"] for row in result["runs"]] == ["batch norm", "without", "linear"]
    for row in result["runs"]:
        law = separation_law(row["separability"])
        assert len(row["separability"]) == 3
        assert row["rate"] == pytest.approx(law.rate, rel=1e-3)
    model = equi_separation.network("linear", 6, 2, equi_separation.Config(width=4), 3)
    x = torch.randn(2, 6)
    torch.testing.assert_close(
        model(x[:1] + x[1:]) + model(0 * x[:1]), model(x).sum(0, keepdim=True)
    )


def test_the_committed_laws_are_on_the_page():
    folder = ROOT / "experiments" / "results" / "equi_separation"
    runs = json.loads((folder / "result.json").read_text(encoding="utf8"))["runs"]
    table = equi_separation.table(runs)
    assert table == (folder / "table.md").read_text(encoding="utf8")
    assert table in (ROOT / "docs" / "depth.md").read_text(encoding="utf8")


# ResNet-56 on CIFAR-10 at nine taps, as others measured it: NC1 and ÑC1.
RESNET56 = {
    "nc1": (171.95, 53.61, 56.52, 24.11, 10.91, 6.22, 3.50, 0.671, 0.05),
    "nc1_trace": (4.57, 3.83, 3.61, 3.37, 3.40, 3.29, 2.54, 1.56, 0.071),
}


def test_a_resnet56_of_ours_beside_that_of_others():
    file = ROOT / "experiments" / "results" / "public_networks" / "resnet56_cifar10.safetensors"
    layers = pnc.load_layers(file)
    found = [pnc.collapse_metrics(layers[f"blocks.{i}"]) for i in range(2, 27, 3)]
    page = (ROOT / "docs" / "depth.md").read_text(encoding="utf8")
    for metric, label in (("nc1", "NC1"), ("nc1_trace", "ÑC1")):
        sides = {"theirs": RESNET56[metric], "here": [getattr(m, metric) for m in found]}
        for side, values in sides.items():
            laws = separation_law(values), separation_law(values[:-1])
            cells = [f"{v:.3g}".replace("0.", ".") if v < 1 else f"{v:.3g}" for v in values]
            r, without = (law.correlation for law in laws)
            cells += [f"{r:.3f} ({without:.3f})", f"{laws[0].rate:.3f}"]
            assert f"| {label}, {side} | {' | '.join(cells)} |" in page


def test_what_the_closed_form_near_collapse_leaves_out(monkeypatch, tmp_path, capsys):
    result = run(small_vicinity, monkeypatch, tmp_path)
    printed = capsys.readouterr().out
    assert "| depth_calibration/digits-res-bn-wd0.001 | no | .01 |" in printed
    assert "| res8-bn | yes | .01 |" in printed
    near, far = result["distance"]["random"]["rows"]
    for part in ("weight", "means"):  # every order more gains a factor of the distance
        for order, slope in ((0, 1), (1, 2), (2, 3), (3, 4)):
            growth = far["errors"][part][order] / near["errors"][part][order]
            assert math.log10(growth) == pytest.approx(slope, abs=0.1)
    assert [row["bias"] for row in result["layers"]] == [False, True] * 3
    layer = result["layers"][0]
    first, optimum, measured = (
        layer["metrics"][side]["nc1"] for side in ("first order", "optimum", "measured")
    )
    assert layer["status"] == "NOT_SMALL"
    assert abs(math.log(first / measured)) < 0.05 < math.log(optimum / measured)


def test_the_committed_layers_say_what_the_page_says():
    path = ROOT / "experiments" / "results" / "small_vicinity" / "result.json"
    page = (ROOT / "docs" / "vicinity.md").read_text(encoding="utf8")
    rows = json.loads(path.read_text(encoding="utf8"))["layers"]
    assert small_vicinity.table(rows) in page
    small = {row["network"] for row in rows if row["status"] == "CONVERGED"}
    assert small == {
        "depth_calibration/digits-mlp-wd0.0005",
        "every_layer/convnet-cifar10-seed0",
        "every_layer/convnet-fashion_mnist-seed0",
    }
    assert all(row["bias"] for row in rows if row["status"] == "CONVERGED")
    assert len(rows) == 2 * (27 + 12)
    own = [row["metrics"] for row in rows if row["bias"]]
    near = [row for row in own if row["before"]["nc1"] < 0.3]
    for title, chosen in ((f"all {len(own)}", own), (f"the {len(near)} with NC1 below .3", near)):
        for metric, label in (("nc1_trace", "ÑC1"), ("nc2_etf", "NC2")):
            values = {side: np.array([row[side][metric] for row in chosen]) for side in own[0]}
            error = {side: np.abs(np.log(v / values["measured"])) for side, v in values.items()}
            sides = ("first order", "optimum", "before")
            cells = [f"{np.median(error[side]):.3f}".lstrip("0") for side in sides]
            nearer = int((error["first order"] < error["before"]).sum())
            assert f"| {label} | {' | '.join(cells)} | {nearer} |" in page
        assert f"| {title}" in page

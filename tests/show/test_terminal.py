"""Tables that a terminal of 80 columns can show, of networks of any depth."""

import io

import pytest
import torch
from rich.console import Console

import perturb_nc as pnc
from perturb_nc.show import terminal

SETTING = {"lambda_w": 0.05, "lambda_h": 0.01, "beta": 0.5}


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width, markup=False)
    console.print(table)
    return console.file.getvalue().splitlines()


@pytest.fixture(scope="module")
def statistics():
    labels = torch.arange(60) % 3
    noise = torch.arange(300.0).square().sin().view(60, 5)
    return pnc.ClassStatistics.from_features(torch.eye(3, 5)[labels] + 0.2 * noise, labels)


def records(count, value=0.123456):
    names = list(pnc.collapse_metrics(STATISTICS).as_dict())
    return {f"model.blocks.{i}.mlp": dict.fromkeys(names, value + i) for i in range(count)}


STATISTICS = pnc.exact_collapse(num_classes=3, dim=4, lambda_w=0.1, lambda_h=0.1).statistics(5)


def test_sixty_layers_are_summed_up_in_one_table():
    (table,) = terminal.metrics_tables(records(60), title="network.safetensors")
    lines = printed(table)
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if line.strip().startswith("model.")]
    assert len(rows) == 12
    assert (rows[0][0], rows[-1][0]) == ("model.blocks.0.mlp", "model.blocks.59.mlp")
    assert rows[-1][1:] == ["59.1"] * 5
    said = " ".join(" ".join(lines).split())
    count = len(records(1)["model.blocks.0.mlp"])
    assert f"60 layers, 12 shown; every layer and all {count} metrics: --all" in said


def test_all_shows_every_layer_and_metric():
    given = records(60)
    tables = terminal.metrics_tables(given, title="n", everything=True)
    assert len(tables) == 12
    lines = [line for table in tables for line in printed(table)]
    assert max(map(len, lines)) <= 80
    assert sum(line.strip().startswith("nc3_duality") for line in lines) == 12


def test_few_layers_show_everything_at_once():
    (table,) = terminal.metrics_tables(records(5), title="n")
    assert any(line.strip().startswith("dnc3") for line in printed(table))


def test_predictions_of_many_layers_fit_the_terminal(statistics):
    (one,) = pnc.study.predict_layers({"a": statistics}, **SETTING).values()
    many = {f"model.layers.{i}.output": one for i in range(60)}
    lines = printed(terminal.prediction_table(many, SETTING))
    assert max(map(len, lines)) <= 80
    assert sum("predicted" in line for line in lines) == 12
    assert sum("model.layers." in line for line in lines) == 12
    assert "60 layers, 12 shown" in "".join(lines)
    assert not any("…" in line for line in lines)
    everything = printed(terminal.prediction_table(many, SETTING, everything=True))
    assert sum("predicted" in line for line in everything) == 60


def test_a_table_of_a_path_has_its_ends(statistics):
    times = [0.0, *(0.1 * i for i in range(1, 30))]
    path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.01, times=times)
    traces = {name: [1.0] * 30 for name in ("within", "between")}
    lines = printed(terminal.flow_table(path, traces))
    assert max(map(len, lines)) <= 80
    firsts = [line.split()[0] for line in lines[3:] if line.strip() and line.strip()[0].isdigit()]
    assert (firsts[0], firsts[-1], len(firsts)) == ("0", "2.9", 8)


def test_notes_beyond_three_are_counted():
    notes = [f"layer{i}: few samples" for i in range(5)]
    assert terminal.first(notes) == [*notes[:3], "2 more such notes: --all"]
    assert terminal.first(notes[:3]) == notes[:3]


def test_a_calibration_fits_the_terminal(statistics):
    path = pnc.central_path_flow(statistics, lambda_w=0.1, lambda_h=0.01, times=[0.1, 0.2])
    layers = {"model.layers.0.output": statistics}
    layers |= {f"model.layers.{i + 1}.output": path.statistics(i) for i in range(2)}
    found = pnc.calibrate_depth(layers, lambda_w=0.1, lambda_h=0.01)
    lines = printed(terminal.depth_table(found, title="a network"))
    assert max(map(len, lines)) <= 80
    assert sum("on the path" in line for line in lines) == 2
    assert not any("…" in line for line in lines)
    assert len(lines) < 20  # names take two lines at most

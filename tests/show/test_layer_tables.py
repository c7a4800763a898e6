from shown import printed

import perturb_nc as pnc
from perturb_nc.show import layer_tables

SETTING = {"lambda_w": 0.05, "lambda_h": 0.01, "beta": 0.5}


def records(count, value=0.123456):
    names = list(pnc.collapse_metrics(STATISTICS).as_dict())
    return {f"model.blocks.{i}.mlp": dict.fromkeys(names, value + i) for i in range(count)}


STATISTICS = pnc.exact_collapse(num_classes=3, dim=4, lambda_w=0.1, lambda_h=0.1).statistics(5)


def test_sixty_layers_are_summed_up_in_one_table():
    (table,) = layer_tables.metrics_tables(records(60), title="network.safetensors")
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
    tables = layer_tables.metrics_tables(given, title="n", everything=True)
    assert len(tables) == 12
    lines = [line for table in tables for line in printed(table)]
    assert max(map(len, lines)) <= 80
    assert sum(line.strip().startswith("nc3_duality") for line in lines) == 12


def test_few_layers_show_everything_at_once():
    (table,) = layer_tables.metrics_tables(records(5), title="n")
    assert any(line.strip().startswith("dnc3") for line in printed(table))


def test_predictions_of_many_layers_fit_the_terminal(statistics):
    (one,) = pnc.study.predict_layers({"a": statistics}, **SETTING).values()
    many = {f"model.layers.{i}.output": one for i in range(60)}
    lines = printed(layer_tables.prediction_table(many, SETTING))
    assert max(map(len, lines)) <= 80
    assert sum("predicted" in line for line in lines) == 12
    assert sum("model.layers." in line for line in lines) == 12
    assert "60 layers, 12 shown" in "".join(lines)
    assert not any("…" in line for line in lines)
    everything = printed(layer_tables.prediction_table(many, SETTING, everything=True))
    assert sum("predicted" in line for line in everything) == 60

import json

import numpy as np
import pytest
import torch
from torch import nn
from training_runs import clusters

from perturb_nc.measure.dataset import batches
from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.measure.extraction import collect_statistics
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.metrics.table import collapse_metrics
from perturb_nc.networks.architectures import MLP
from perturb_nc.networks.training import TrainingConfig, train

CONFIG = TrainingConfig(epochs=3, batch_size=16)


def fresh():
    torch.manual_seed(0)
    return MLP(6, (8, 7), 3, batch_norm=True)


def measured(model, data):
    return {
        name: collapse_metrics(s).as_dict()
        for name, s in collect_statistics(model, batches(data, 1024)).items()
    }


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, nan_ok=True), name


def test_any_loop_gets_every_layer_once_per_epoch():
    data, model = clusters(), fresh()
    monitor = CollapseMonitor(model, data)
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in (1, 2):
        model.train()
        loss = nn.functional.cross_entropy(model(data.inputs), data.labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        before = [p.grad.clone() for p in model.parameters()]
        random = torch.get_rng_state()
        metrics = monitor(epoch, loss=loss.item())
        assert model.training
        assert torch.equal(torch.get_rng_state(), random)
        assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        same({name: m.as_dict() for name, m in metrics.items()}, measured(model, data))
    assert [record["epoch"] for record in monitor.records] == [1, 2]
    assert monitor.records[1]["loss"] == loss.item()
    same(monitor.records[1]["layers"], measured(model, data))
    assert list(monitor.statistics) == ["blocks.0", "blocks.1", "head"]
    assert monitor.records[0]["share"] is None
    assert 0 < monitor.records[1]["share"] < 1
    assert monitor.records[1]["seconds"] > 0


def test_training_with_a_monitor_gives_the_same_bits():
    data, plain, watched = clusters(), fresh(), fresh()
    history = train(plain, data, CONFIG)
    monitor = CollapseMonitor(watched, list(batches(data, 20)))
    assert train(watched, data, CONFIG, on_epoch=monitor.on_epoch) == history
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), watched.parameters()))  # noqa: B905
    assert [r["loss"] for r in monitor.records] == [record.loss for record in history]
    assert [r["accuracy"] for r in monitor.records] == [record.accuracy for record in history]
    same(monitor.records[-1]["layers"], measured(watched, data))


def test_json_lines_hold_what_the_records_hold_and_are_added_to(tmp_path):
    data, path = clusters(), tmp_path / "deep" / "run.jsonl"
    one = CollapseMonitor(fresh(), data, path=path)
    one(1, loss=0.5)
    one(2, loss=0.25)
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert "NaN" not in lines[0]  # standard JSON: null
    assert json.loads(lines[1])["loss"] == 0.25
    again = CollapseMonitor(fresh(), data, path=path)
    assert [record["epoch"] for record in again.records] == [1, 2]
    again(2, loss=0.125)  # measured again after an interruption
    again(3, loss=0.1)
    assert [r["loss"] for r in again.records] == [0.5, 0.125, 0.1]
    assert [r["loss"] for r in read_epochs(path)] == [0.5, 0.125, 0.1]
    assert len(path.read_text().splitlines()) == 4


def test_a_tensorboard_writer_gets_every_value():
    class Writer:
        def __init__(self):
            self.values = {}

        def add_scalar(self, tag, scalar_value, global_step):
            self.values[tag, global_step] = scalar_value

    writer = Writer()
    metrics = CollapseMonitor(fresh(), clusters(), tensorboard=writer)(7)
    assert len(writer.values) == 3 * len(metrics["head"].as_dict())
    assert writer.values["collapse/nc1/blocks.1", 7] == metrics["blocks.1"].nc1


def test_weights_are_those_that_read_the_features():
    data, model = clusters(), fresh()
    statistics = collect_statistics(model, batches(data, 60))
    found = CollapseMonitor(model, data, weights={"blocks.1": "head"})(1)
    wanted = collapse_metrics(statistics["blocks.1"], model.head.weight.detach())
    assert found["blocks.1"].nc3_duality == pytest.approx(wanted.nc3_duality)
    assert found["blocks.0"].nc3_duality != found["blocks.0"].nc3_duality
    # At inputs, every layer reads its own.
    names = ["blocks.1.linear", "head"]
    found = CollapseMonitor(model, data, at="input", layers=names)(1)
    assert found["head"].nc3_duality == pytest.approx(wanted.nc3_duality)
    weight = model.blocks[1].linear.weight.detach()
    wanted = collapse_metrics(statistics["blocks.0"], weight)
    assert found["blocks.1.linear"].nc3_alignment == pytest.approx(wanted.nc3_alignment)


def test_in_the_span_of_the_means_a_data_set_is_read_twice():
    data, model = clusters(), fresh()
    found = CollapseMonitor(model, data, covariance="span")(1)
    wanted = measured(model, data)
    assert found["blocks.0"].nc1 == pytest.approx(wanted["blocks.0"]["nc1"], rel=1e-6)


def test_scalars_may_be_tensors_and_arrays_of_one_number(tmp_path, unchecked):
    data, path = clusters(), tmp_path / "run.jsonl"
    monitor = CollapseMonitor(fresh(), data, path=path)
    loss = torch.tensor(0.5, requires_grad=True) * 2
    monitor(np.int64(1), loss=loss, error=np.float32(0.25), rates=np.ones(1), note="a\u2028b")
    (record,) = read_epochs(path)
    assert (record["epoch"], record["loss"], record["error"]) == (1, 1.0, 0.25)
    assert (record["rates"], record["note"]) == (1.0, "a\u2028b")
    with pytest.raises(ValueError, match="losses must be a number or a text, got Tensor"):
        monitor(2, losses=torch.ones(3))
    with pytest.raises(ValueError, match="'seconds' is recorded by the monitor itself"):
        monitor(2, seconds=3)
    assert len(monitor.records) == 1


def test_wrapped_models_have_the_names_and_weights_of_the_plain_one():
    data, model = clusters(), fresh()
    weights = {"blocks.1": "head"}
    wanted = CollapseMonitor(model, data, weights=weights)(1)
    wrapped = nn.DataParallel(model)
    for names in (weights, {"blocks.1": "module.head"}):
        found = CollapseMonitor(wrapped, data, weights=names)(1)
        assert found["blocks.1"].nc3_duality == wanted["blocks.1"].nc3_duality
    at_inputs = CollapseMonitor(wrapped, data, at="input", layers="head")(1)
    assert at_inputs["head"].nc3_duality == pytest.approx(wanted["blocks.1"].nc3_duality)


def test_other_batches_are_unpacked():
    data, model = clusters(), fresh()
    loader = [(data.inputs, data.labels, torch.arange(60))]
    found = CollapseMonitor(model, loader, unpack=lambda batch: batch[:2])(1)
    same({name: m.as_dict() for name, m in found.items()}, measured(model, data))


def test_bad_arguments_are_named(tmp_path):
    data, model = clusters(), fresh()
    with pytest.raises(ValueError, match=r"path must end in .jsonl or .csv, got .*run\.txt"):
        CollapseMonitor(model, data, path=tmp_path / "run.txt")
    with pytest.raises(ValueError, match="loader must be readable every epoch"):
        CollapseMonitor(model, batches(data, 8))
    with pytest.raises(ValueError, match="covariance must be 'full' or 'span', got 'none'"):
        CollapseMonitor(model, data, covariance="none")
    with pytest.raises(ValueError, match=r"modules with a weight, got 'blocks.0.activation'"):
        CollapseMonitor(model, data, weights={"blocks.0": "blocks.0.activation"})
    with pytest.raises(ValueError, match=r"got 'fc' \(blocks.1\)"):
        CollapseMonitor(model, data, weights={"blocks.1": "fc"})


def test_a_monitor_can_cost_less():
    """Fewer epochs and fewer samples; what it told a logger is what it recorded."""
    data, told = clusters(), []
    monitor = CollapseMonitor(fresh(), data, every=2, per_class=4, log=told.append)
    assert [bool(monitor(epoch, loss=0.5)) for epoch in (1, 2, 3)] == [True, False, True]
    assert [record["epoch"] for record in monitor.records] == [1, 3]
    assert {s.num_samples for s in monitor.statistics.values()} == {12}
    assert told[-1] == monitor.scalars()
    layer, metrics = next(iter(monitor.records[-1]["layers"].items()))
    assert told[-1][f"collapse/nc1/{layer}"] == metrics["nc1"]
    assert (told[-1]["epoch"], told[-1]["loss"]) == (3, 0.5)
    assert 0 < told[-1]["collapse/share"] <= 1
    assert 0 < monitor.share < 1
    assert all(value == value for value in told[-1].values())  # none that is not defined
    assert not CollapseMonitor(fresh(), data).scalars()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("epoch", [None, 1.5, "1", True])
def test_an_epoch_that_is_no_number_of_one_is_refused(epoch):
    with pytest.raises(ValueError, match=r"epoch must be an integer, got .*; give scalars by name"):
        CollapseMonitor(fresh(), clusters())(epoch)


def test_weights_of_layers_that_are_not_measured_are_refused():
    monitor = CollapseMonitor(fresh(), clusters(), weights={"block.1": "head"})
    with pytest.raises(
        ValueError, match=r"names of measured layers, got 'block.1'; there are \['bl"
    ):
        monitor(1)
    assert monitor.records == []

"""The callback for the Trainer of Hugging Face, and a loop with Accelerate, with both."""

import importlib.util
import os

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perturb_nc as pnc

pytestmark = pytest.mark.filterwarnings("ignore")
has = {name: importlib.util.find_spec(name) is not None for name in ("transformers", "accelerate")}


@pytest.mark.skipif(not all(has.values()), reason="needs transformers and accelerate")
def test_a_trainer_measures_an_encoder_at_its_epochs(tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

    from perturb_nc.measure.integrations.transformers import CollapseCallback

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=3,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    items = [
        {
            "input_ids": torch.randint(0, 30, (6,)),
            "attention_mask": torch.ones(6, dtype=torch.int64),
            "labels": torch.tensor(i % 3),
        }
        for i in range(30)
    ]
    loader = DataLoader(items, batch_size=10)
    callback = CollapseCallback(
        loader, layers="bert.encoder.layer.*", reduce="class_token", every=2
    )
    arguments = TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=10,
        report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model=model, args=arguments, train_dataset=items, callbacks=[callback])
    trainer.train()
    records = callback.monitor.records
    assert [record["epoch"] for record in records] == [1, 3]
    assert list(records[0]["layers"]) == ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    own = pnc.collect_statistics(
        model, loader, layers=["bert.encoder.layer.1"], reduce="class_token"
    )["bert.encoder.layer.1"]
    assert records[1]["layers"]["bert.encoder.layer.1"]["nc1"] == pnc.collapse_metrics(own).nc1
    logged = [e for e in trainer.state.log_history if "collapse/nc1/bert.encoder.layer.1" in e]
    assert [entry["epoch"] for entry in logged] == [1.0, 3.0]


@pytest.mark.skipif(not has["accelerate"], reason="needs accelerate")
def test_a_loop_with_accelerate_calls_the_monitor_as_any_other():
    from accelerate import Accelerator

    torch.manual_seed(0)
    y = torch.arange(60) % 3
    data = TensorDataset(torch.randn(60, 4) + torch.eye(3, 4)[y], y)
    accelerator = Accelerator(cpu=True)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    model, optimizer, loader = accelerator.prepare(
        model, torch.optim.SGD(model.parameters(), lr=0.1), DataLoader(data, batch_size=20)
    )
    monitor = pnc.CollapseMonitor(model, loader, layers=["1"])
    for epoch in (1, 2):
        for inputs, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
            optimizer.step()
        monitor(epoch)
    own = pnc.collect_statistics(accelerator.unwrap_model(model), data, layers=["1"])["1"]
    assert monitor.records[-1]["layers"]["1"]["nc1"] == pytest.approx(pnc.collapse_metrics(own).nc1)

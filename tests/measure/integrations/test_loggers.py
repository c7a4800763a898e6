"""`CollapseMonitor(log=...)` with the loggers that people have."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perturb_nc as pnc

pytestmark = pytest.mark.filterwarnings("ignore")


def measured(log):
    """Two epochs of a monitor that tells `log`; the last of what it was told."""
    torch.manual_seed(0)
    labels = torch.arange(60) % 3
    data = TensorDataset(torch.randn(60, 4) + torch.eye(3, 4)[labels], labels)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    monitor = pnc.CollapseMonitor(model, DataLoader(data, batch_size=20), log=log)
    for epoch in (1, 2):
        monitor(epoch, loss=1 / epoch)
        with torch.no_grad():
            model[0].weight.mul_(2)
    return monitor.scalars()


def test_weights_and_biases(tmp_path):
    wandb = pytest.importorskip("wandb", reason="needs wandb")
    with wandb.init(mode="offline", dir=tmp_path, project="test") as run:
        told = measured(run.log)
        kept = {name: run.summary[name] for name in told}
    assert kept == pytest.approx(told, nan_ok=True)


def test_mlflow(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        told = measured(lambda values: mlflow.log_metrics(values, step=int(values["epoch"])))
    client = mlflow.tracking.MlflowClient()
    assert client.get_run(run.info.run_id).data.metrics == pytest.approx(told, nan_ok=True)
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(1, 1.0), (2, 0.5)]

"""The callback for Lightning, with Lightning."""

import importlib.util

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import perturb_nc as pnc

NAME = next(
    (
        n
        for n in ("lightning.pytorch", "pytorch_lightning")
        if importlib.util.find_spec(n.split(".")[0])
    ),
    None,
)
pytestmark = [
    pytest.mark.skipif(NAME is None, reason="needs lightning"),
    pytest.mark.filterwarnings("ignore"),
]


def test_a_trainer_measures_and_trains_as_without(tmp_path):
    pl = importlib.import_module(NAME)
    from perturb_nc.measure.integrations.lightning import CollapseCallback

    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    data = TensorDataset(x + torch.eye(3, 4)[y], y)

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

        def forward(self, inputs):
            return self.net(inputs)

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("train/loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    told = []

    class Logger(pl.loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            told.append((step, metrics))

    def trained(callbacks):
        pl.seed_everything(1, verbose=False)
        module = Module()
        trainer = pl.Trainer(
            max_epochs=4, accelerator="cpu", callbacks=callbacks, enable_progress_bar=False,
            logger=Logger(tmp_path), enable_checkpointing=False, enable_model_summary=False,
            log_every_n_steps=1,
        )  # fmt: skip
        trainer.fit(module, DataLoader(data, batch_size=20))
        return module

    plain = trained([])
    callback = CollapseCallback(data, module="net", layers=["1"], every=2)
    module = trained([callback])
    for one, two in zip(plain.parameters(), module.parameters(), strict=True):
        assert one.equal(two)
    records = callback.monitor.records
    assert [record["epoch"] for record in records] == [0, 2]
    assert records[1]["train_loss"] > 0
    assert module.training
    logged = [values for _, values in told if "collapse/nc1/1" in values]
    assert [values["collapse/nc1/1"] for values in logged] == [
        r["layers"]["1"]["nc1"] for r in records
    ]
    last = CollapseCallback(data, module="net", layers=["1"])
    last.on_fit_start(None, module)
    own = pnc.collapse_metrics(pnc.collect_statistics(module.net, data, layers=["1"])["1"])
    assert last.monitor(4)["1"].nc1 == own.nc1

"""A callback for PyTorch Lightning (`lightning` or `pytorch_lightning`)."""

from typing import Any

from torch import nn

from perturb_nc.measure.loading import Loader
from perturb_nc.measure.monitor import CollapseMonitor

try:
    from lightning.pytorch import Callback
except ModuleNotFoundError:
    from pytorch_lightning import Callback


class CollapseCallback(Callback):
    """Measures the collapse of every layer at the end of training epochs.

        trainer = Trainer(callbacks=[CollapseCallback(loader, layers="blocks.*", every=5)])

    Metrics go to the trainer's loggers as "collapse/METRIC/LAYER", and to `monitor.records`, with
    what the trainer itself logged (`trainer.callback_metrics`) beside.

    Args:
        loader: what to measure on; see `CollapseMonitor`.
        module: of the LightningModule, by name, where that is not itself what is to be measured.
        log: whether to tell the trainer's loggers.
        options: of `CollapseMonitor`: path, layers, every, budget, samples, …
    """

    def __init__(
        self, loader: Loader, *, module: str = "", log: bool = True, **options: Any
    ) -> None:
        self._loader, self._module, self._log, self._options = loader, module, log, options
        self.monitor: CollapseMonitor | None = None

    def on_fit_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Make the monitor, of the module that is trained."""
        model = pl_module.get_submodule(self._module)
        self.monitor = CollapseMonitor(model, self._loader, **self._options)

    def on_train_epoch_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Measure, where it is the turn of this epoch."""
        monitor = self.monitor
        if monitor is None or trainer.sanity_checking:
            return
        logged = {name.replace("/", "_"): float(v) for name, v in trainer.callback_metrics.items()}
        if monitor(trainer.current_epoch, **logged) and self._log:
            values = monitor.scalars()
            for logger in trainer.loggers:
                logger.log_metrics(values, step=trainer.global_step)

"""A callback for the Trainer of Hugging Face `transformers`, and so for Accelerate below it."""

from typing import Any

from transformers import TrainerCallback

from perturb_nc.measure.loading import Loader
from perturb_nc.measure.monitor import CollapseMonitor


class CollapseCallback(TrainerCallback):
    """Measures the collapse of every layer at the end of epochs of a `Trainer`.

        Trainer(model, ..., callbacks=[CollapseCallback(loader, layers="encoder.*.output")])

    `loader` gives dictionaries as the model takes them, with "labels". Metrics go to the log
    of the trainer (`state.log_history`) as "collapse/METRIC/LAYER", and to `monitor.records`.
    The loggers it reports to are not told: give them to `log`, as `log=wandb.log`.

    Args:
        loader: what to measure on; see `CollapseMonitor`.
        options: of `CollapseMonitor`: path, layers, reduce, every, budget, samples, …
    """

    def __init__(self, loader: Loader, **options: Any) -> None:
        self._loader, self._options = loader, options
        self.monitor: CollapseMonitor | None = None

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Measure, where it is the turn of this epoch."""
        if self.monitor is None:
            self.monitor = CollapseMonitor(given["model"], self._loader, **self._options)
        if self.monitor(round(state.epoch)):
            entry = {"epoch": state.epoch, "step": state.global_step, **self.monitor.scalars()}
            state.log_history.append(entry)

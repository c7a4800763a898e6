"""Training by SGD, with a weight decay of its own for the last layer; resumable."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from perturb_nc.measure.dataset import Dataset, batches
from perturb_nc.networks.checkpoints import EpochRecord, Run
from perturb_nc.networks.parallel import data_parallel, part_of, summed, world
from perturb_nc.networks.schedules import SCHEDULES, milestones, one_cycle
from perturb_nc.storage import local
from perturb_nc.validation import at_least, nonnegative, positive

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides a training run besides the model and the data.

    Attributes:
        epochs: passes over the data.
        batch_size: B.
        learning_rate, momentum: of SGD (no dampening, not Nesterov).
        schedule: "milestones", or "one_cycle": up to `learning_rate` and down again, see
            `schedules.one_cycle`.
        milestones: after these epochs (increasing) the learning rate is multiplied by `gamma`.
        gamma: factor > 0.
        weight_decay: adds (weight_decay/2)|θ|² for all parameters but those of the last layer.
        last_layer_weight_decay: the same for the last layer; None takes `weight_decay`.
        loss: "mse" (`squared_loss`) or "cross_entropy" (mean over the batch).
        precision: "float32", or "bfloat16" for torch's automatic mixed precision (the parameters
            and the loss stay float32).
        channels_last: whether images and convolutions keep their channels in the last place in
            memory, which is faster on GPUs; results differ by rounding.
        seed: of the order of the samples; the caller initialises the model.

    Raises:
        ValueError: a value out of its range.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    schedule: str = "milestones"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    weight_decay: float = 5e-4
    last_layer_weight_decay: float | None = None
    loss: str = "mse"
    precision: str = "float32"
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        at_least(self.epochs, 1, "epochs")
        at_least(self.batch_size, 1, "batch_size")
        at_least(self.seed, 0, "seed")
        positive(self.learning_rate, "learning_rate")
        positive(self.gamma, "gamma")
        nonnegative(self.weight_decay, "weight_decay")
        if self.last_layer_weight_decay is not None:
            nonnegative(self.last_layer_weight_decay, "last_layer_weight_decay")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), got {self.momentum}")
        object.__setattr__(self, "milestones", tuple(self.milestones))
        if list(self.milestones) != sorted({at_least(m, 1, "milestones") for m in self.milestones}):
            raise ValueError(f"milestones must increase, got {self.milestones}")
        for name, known in (
            ("loss", LOSSES), ("schedule", SCHEDULES), ("precision", _PRECISIONS),
        ):  # fmt: skip
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
        if self.schedule != "milestones" and self.milestones:
            raise ValueError(
                f"milestones must be empty with {self.schedule}, got {self.milestones}"
            )


def squared_loss(outputs: Float[Tensor, "B K"], labels: Int[Tensor, "B"]) -> Float[Tensor, ""]:
    """1/(2B) Σ |f(x) - y|² with one-hot y: a sum over the K outputs, not a mean."""
    targets = nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return (outputs - targets).square().sum() / (2 * len(labels))


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": squared_loss,
    "cross_entropy": nn.functional.cross_entropy,
}


def train(
    model: nn.Module,
    dataset: Dataset,
    config: TrainingConfig,
    *,
    last_layer: str = "head",
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:
    """Train `model` in place on its own device; returns the record of every epoch.

    With loss "mse" the objective is 1/(2N) Σ |Wh - y|² + (wd/2)|W|² + …, in the normalisation of
    Tirer et al. 2023: `last_layer_weight_decay` wd is λ_W = K·wd of the near-collapse model,
    whose term is λ_W/(2K)|W|². The model is left in training mode.

    With `checkpoint`, a file with all that decides the rest of the run is written, atomically,
    every `checkpoint_every` epochs and at the end. If it exists, training goes on from it; on the
    CPU the result is the same, bit for bit, as without the interruption. `config` must then
    be the one of the file, but may ask for more epochs if its schedule has milestones.

    Under torchrun (see `parallel`) every process calls this with the same arguments. Each takes its
    part of every batch; the first one writes the checkpoints and calls `on_epoch`.

    Args:
        last_layer: name of the module whose parameters get `last_layer_weight_decay`.
        on_epoch: called after each epoch and before its checkpoint, so that an interruption
            repeats an epoch and never skips one; what it raises ends the run. A `CollapseMonitor`
            measures here.

    Raises:
        ValueError: no module `last_layer`, outputs not (B, K), a checkpoint of another run, or a
            last batch with fewer samples than processes.
        FloatingPointError: the loss is no longer finite; the last checkpoint is from before that.
    """
    at_least(checkpoint_every, 1, "checkpoint_every")
    checkpoint = None if checkpoint is None else local(checkpoint, "checkpoint")
    if config.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        parameter_groups(model, last_layer, config),
        lr=config.learning_rate,
        momentum=config.momentum,
    )
    data = dataset.to(next(model.parameters()).device)
    first = world()[0] == 0
    _check_batches(data, config)
    run = Run(model, optimizer, torch.Generator().manual_seed(config.seed), [])
    identity = {**asdict(config), "last_layer": last_layer, "dataset": dataset.name}
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint, identity)
    runner = data_parallel(model)
    for epoch in range(len(run.history) + 1, config.epochs + 1):
        model.train()
        run.history.append(_run_epoch(run, runner, data, config, epoch))
        if on_epoch is not None and first:
            on_epoch(run.history[-1])
        due = epoch % checkpoint_every == 0 or epoch == config.epochs
        if checkpoint is not None and due and first:
            run.save(checkpoint, identity)
    model.train()
    return run.history


def parameter_groups(
    model: nn.Module, last_layer: str, config: TrainingConfig
) -> list[dict[str, Any]]:
    """Parameters and weight decay of the feature layers and of the last one, for an optimizer."""
    modules = dict(model.named_modules())
    if last_layer not in modules or not last_layer:
        names = ", ".join(name for name in modules if name)
        raise ValueError(
            f"last_layer must name a module of the model ({names}), got {last_layer!r}"
        )
    last = {id(p) for p in modules[last_layer].parameters()}
    groups: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups[id(parameter) in last].append(parameter)
    decay = config.last_layer_weight_decay
    return [
        {"params": groups[0], "weight_decay": config.weight_decay},
        {"params": groups[1], "weight_decay": config.weight_decay if decay is None else decay},
    ]


def _check_batches(data: Dataset, config: TrainingConfig) -> None:
    size = world()[1]
    smallest = len(data) % config.batch_size or config.batch_size
    if smallest < size:
        raise ValueError(
            f"batch_size must leave every batch at least one sample for each of {size} processes, "
            f"got {config.batch_size}, which leaves {smallest} of {len(data)} for the last batch"
        )
    if config.channels_last and data.inputs.ndim != 4:
        raise ValueError(
            f"channels_last needs inputs (N, C, H, W), got {tuple(data.inputs.shape)}; turn it off"
        )


def _run_epoch(
    run: Run, runner: nn.Module, data: Dataset, config: TrainingConfig, epoch: int
) -> EpochRecord:
    size, (_, parts) = len(data), world()
    steps = -(-size // config.batch_size)
    # Summed on the device: one synchronisation per epoch.
    totals = torch.zeros(2, dtype=torch.float64, device=data.labels.device)
    for step, batch in enumerate(batches(data, config.batch_size, generator=run.generator)):
        rate = rate_at(config, epoch, step, steps)
        for group in run.optimizer.param_groups:
            group["lr"] = rate
        inputs, labels = part_of(*batch)
        outputs = _outputs(runner, inputs, config)
        check_outputs(outputs, (len(labels), data.num_classes))
        loss = LOSSES[config.loss](outputs, labels)
        run.optimizer.zero_grad()
        # Gradients are averaged over processes, whose parts may differ by one sample.
        (loss * (len(labels) * parts / len(batch[1])) if parts > 1 else loss).backward()
        run.optimizer.step()
        hits = (outputs.detach().argmax(1) == labels).sum()
        totals += torch.stack([loss.detach().double() * len(labels), hits.double()])
    mean_loss, accuracy = (summed(totals) / size).tolist()
    if not math.isfinite(mean_loss):
        raise FloatingPointError(
            f"the loss became {mean_loss} in epoch {epoch}; lower learning_rate (now {rate:g})"
        )
    return EpochRecord(epoch, mean_loss, accuracy, rate)


def _outputs(runner: nn.Module, inputs: Tensor, config: TrainingConfig) -> Tensor:
    if config.channels_last:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    if config.precision == "float32":
        return runner(inputs)
    with torch.autocast(inputs.device.type, dtype=_PRECISIONS[config.precision]):
        return runner(inputs).float()


def check_outputs(outputs: Tensor, wanted: tuple[int, int]) -> None:
    """ValueError when a model does not give one output per sample and class."""
    if outputs.shape != wanted:
        raise ValueError(
            f"model must return outputs of shape {wanted}, got {tuple(outputs.shape)}; give its "
            "last layer one output per class"
        )


def rate_at(config: TrainingConfig, epoch: int, step: int, steps: int) -> float:
    """The learning rate of a step (from 0) of an epoch (from 1) that has `steps`."""
    if config.schedule == "one_cycle":
        done = (epoch - 1) * steps + step
        return one_cycle(done, config.epochs * steps, peak=config.learning_rate)
    return milestones(epoch, start=config.learning_rate, at=config.milestones, gamma=config.gamma)

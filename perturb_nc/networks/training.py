"""Training by SGD, with a weight decay of its own for the last layer; resumable."""

import math
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from perturb_nc.networks.data import Dataset, batches
from perturb_nc.storage import replacing
from perturb_nc.validation import at_least, nonnegative, positive


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides a training run besides the model and the data.

    Attributes:
        epochs: passes over the data.
        batch_size: B.
        learning_rate, momentum: of SGD (no dampening, not Nesterov).
        milestones: after these epochs (increasing) the learning rate is multiplied by `gamma`.
        gamma: factor > 0.
        weight_decay: adds (weight_decay/2)|θ|² for all parameters but those of the last layer.
        last_layer_weight_decay: the same for the last layer; None takes `weight_decay`.
        loss: "mse" (`squared_loss`) or "cross_entropy" (mean over the batch).
        seed: of the order of the samples; the caller initialises the model.

    Raises:
        ValueError: a value out of its range.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    weight_decay: float = 5e-4
    last_layer_weight_decay: float | None = None
    loss: str = "mse"
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
        if self.loss not in _LOSSES:
            raise ValueError(f"loss must be one of {', '.join(_LOSSES)}, got {self.loss!r}")


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: its number (from 1), and loss and accuracy as met while training.

    `loss` is the mean over the samples, without weight decay; `accuracy` is a share in 0..1.
    Both were taken in training mode with the parameters of the moment.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float


def squared_loss(outputs: Float[Tensor, "B K"], labels: Int[Tensor, "B"]) -> Float[Tensor, ""]:
    """1/(2B) Σ |f(x) - y|² with one-hot y: a sum over the K outputs, not a mean."""
    targets = nn.functional.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return (outputs - targets).square().sum() / (2 * len(labels))


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
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
    checkpoint_every: int = 10,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> list[EpochRecord]:
    """Train `model` in place on its own device; returns the record of every epoch.

    With loss "mse" the objective is 1/(2N) Σ |Wh - y|² + (wd/2)|W|² + …, in the normalisation of
    Tirer et al. 2023: `last_layer_weight_decay` wd is λ_W = K·wd of the near-collapse model,
    whose term is λ_W/(2K)|W|². The model is left in training mode.

    With `checkpoint`, a file with all that decides the rest of the run is written, atomically,
    every `checkpoint_every` epochs and at the end. If it exists, training goes on from it; on the
    CPU the result is the same, bit for bit, as without the interruption. `config` must then
    be the one of the file, but may ask for more epochs.

    Args:
        last_layer: name of the module whose parameters get `last_layer_weight_decay`.
        on_epoch: called after each epoch (and after its checkpoint); what it raises ends the run.

    Raises:
        ValueError: no module `last_layer`, outputs not (B, K), or a checkpoint of another run.
        FloatingPointError: the loss is no longer finite; the last checkpoint is from before that.
    """
    at_least(checkpoint_every, 1, "checkpoint_every")
    optimizer = torch.optim.SGD(
        _parameter_groups(model, last_layer, config),
        lr=config.learning_rate,
        momentum=config.momentum,
    )
    data = dataset.to(next(model.parameters()).device)
    run = _Run(model, optimizer, torch.Generator().manual_seed(config.seed), [])
    identity = {**asdict(config), "last_layer": last_layer, "dataset": dataset.name}
    if checkpoint is not None and Path(checkpoint).exists():
        run.restore(Path(checkpoint), identity)
    model.train()
    for epoch in range(len(run.history) + 1, config.epochs + 1):
        run.history.append(_run_epoch(run, data, config, epoch))
        if checkpoint is not None and (epoch % checkpoint_every == 0 or epoch == config.epochs):
            run.save(Path(checkpoint), identity)
        if on_epoch is not None:
            on_epoch(run.history[-1])
    return run.history


@dataclass(frozen=True, eq=False)
class _Run:
    """What changes while training, and its file."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: list[EpochRecord]

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        state = {
            "identity": identity,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),  # dropout draws from it
            "history": [asdict(record) for record in self.history],
        }
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        remedy = "delete the file or give another checkpoint path to start anew"
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            saved, records = state["identity"], state["history"]
        except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint of train(); {remedy}") from error
        different = [
            f"{name} (file {saved.get(name)!r}, now {value!r})"
            for name, value in identity.items()
            if name != "epochs" and saved.get(name) != value
        ]
        if identity["epochs"] < len(records):
            different.append(f"epochs (file has done {len(records)}, now {identity['epochs']})")
        if different:
            raise ValueError(f"checkpoint {path} differs in {', '.join(different)}; {remedy}")
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise ValueError(f"checkpoint {path} is of another model; {remedy}") from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["global_generator"])
        self.history.extend(EpochRecord(**record) for record in records)


def _parameter_groups(
    model: nn.Module, last_layer: str, config: TrainingConfig
) -> list[dict[str, Any]]:
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


def _run_epoch(run: _Run, data: Dataset, config: TrainingConfig, epoch: int) -> EpochRecord:
    rate = config.learning_rate * config.gamma ** sum(m < epoch for m in config.milestones)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    criterion = _LOSSES[config.loss]
    # Summed on the device: one synchronisation per epoch.
    totals = torch.zeros(2, dtype=torch.float64, device=data.labels.device)
    for inputs, labels in batches(data, config.batch_size, generator=run.generator):
        outputs = run.model(inputs)
        if outputs.shape != (len(labels), data.num_classes):
            raise ValueError(
                f"model must return outputs of shape {(len(labels), data.num_classes)}, "
                f"got {tuple(outputs.shape)}; give its last layer one output per class"
            )
        loss = criterion(outputs, labels)
        run.optimizer.zero_grad()
        loss.backward()
        run.optimizer.step()
        hits = (outputs.detach().argmax(1) == labels).sum()
        totals += torch.stack([loss.detach().double() * len(labels), hits.double()])
    mean_loss, accuracy = (totals / len(data)).tolist()
    if not math.isfinite(mean_loss):
        raise FloatingPointError(
            f"the loss became {mean_loss} in epoch {epoch}; lower learning_rate (now {rate:g})"
        )
    return EpochRecord(epoch, mean_loss, accuracy, rate)

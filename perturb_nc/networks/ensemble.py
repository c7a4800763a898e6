"""Several networks of one shape trained at once, as one batched computation.

Small networks leave a machine waiting for the overhead of each operation; a stack of them does not.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.checkpoints import EpochRecord
from perturb_nc.networks.training import (
    LOSSES,
    TrainingConfig,
    check_outputs,
    parameter_groups,
    rate_at,
)

_FREE = ("seed", "weight_decay", "last_layer_weight_decay")


def train_ensemble(
    models: Sequence[nn.Module],
    dataset: Dataset,
    configs: Sequence[TrainingConfig],
    *,
    last_layer: str = "head",
) -> list[list[EpochRecord]]:
    """Train every model with its own config in place; returns the records of each.

    The same as `train(model, dataset, config)` one by one, up to rounding: every network has its
    own initial weights, order of samples and weight decays. Faster where the networks are small
    (docs/experiments.md); for one process, and without checkpoints.

    Args:
        models: of one architecture, on one device, without buffers (batch norm) or dropout.
        configs: one per model; they may differ in their seed and weight decays only.
        last_layer: as for `train`.

    Raises:
        ValueError: no model, as many configs as there are not models, configs that differ in more,
            bfloat16 or channels_last, a model with buffers or dropout, and what `train` raises.
        FloatingPointError: the loss of a network is no longer finite.
    """
    _check(models, configs)
    common = configs[0]
    data = dataset.to(next(models[0].parameters()).device)
    decays = _decays(models, configs, last_layer)
    for model in models:
        model.train()
    stacked: dict[str, Tensor] = stack_module_state(list(models))[0]
    optimizer = torch.optim.SGD(list(stacked.values()), common.learning_rate, common.momentum)
    losses_and_hits = _batched(models[0], common, data.num_classes)
    generators = [torch.Generator().manual_seed(config.seed) for config in configs]
    history: list[list[EpochRecord]] = [[] for _ in models]
    steps = -(-len(data) // common.batch_size)
    for epoch in range(1, common.epochs + 1):
        orders = torch.stack(
            [torch.randperm(len(data), generator=g, device="cpu") for g in generators]
        )
        totals = torch.zeros(2, len(models), dtype=torch.float64, device=data.labels.device)
        for step, rows in enumerate(orders.to(totals.device).split(common.batch_size, dim=1)):
            rate = optimizer.param_groups[0]["lr"] = rate_at(common, epoch, step, steps)
            losses, hits = losses_and_hits(stacked, data.inputs[rows], data.labels[rows])
            optimizer.zero_grad()
            losses.sum().backward()  # no network's parameters enter the loss of another
            with torch.no_grad():  # as SGD does where one weight decay serves all
                for name, decay in decays.items():
                    stacked[name].grad.addcmul_(stacked[name], decay)  # type: ignore[union-attr]
            optimizer.step()
            totals += torch.stack([losses.detach().double() * rows.shape[1], hits.double()])
        for index, (loss, accuracy) in enumerate((totals / len(data)).T.tolist()):
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss of models[{index}] became {loss} in epoch {epoch}; lower "
                    f"learning_rate (now {rate:g})"
                )
            history[index].append(EpochRecord(epoch, loss, accuracy, rate))
    with torch.no_grad():
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.copy_(stacked[name][index])
    return history


def _batched(
    model: nn.Module, config: TrainingConfig, num_classes: int
) -> Callable[[dict[str, Tensor], Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Loss and number of right answers of every network: stacked parameters, (E, B, …), (E, B)."""
    skeleton = copy.deepcopy(model).to("meta")

    def one(parameters: dict[str, Tensor], inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        outputs = functional_call(skeleton, parameters, (inputs,))
        check_outputs(outputs, (len(labels), num_classes))
        return LOSSES[config.loss](outputs, labels), (outputs.argmax(1) == labels).sum()

    return vmap(one)


def _decays(
    models: Sequence[nn.Module], configs: Sequence[TrainingConfig], last_layer: str
) -> dict[str, Tensor]:
    """Weight decays of every trained parameter, one per network, to multiply the stack with."""
    found: dict[str, list[float]] = {}
    for model, config in zip(models, configs, strict=True):
        groups = parameter_groups(model, last_layer, config)
        decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        for name, p in model.named_parameters():
            if p.requires_grad:
                found.setdefault(name, []).append(decay[id(p)])
    return {
        name: p.new_tensor(found[name]).reshape(-1, *[1] * p.ndim)
        for name, p in models[0].named_parameters()
        if name in found
    }


def _check(models: Sequence[nn.Module], configs: Sequence[TrainingConfig]) -> None:
    if not models or len(models) != len(configs):
        raise ValueError(
            f"configs must be one for each of at least one model, got {len(configs)} for "
            f"{len(models)}"
        )
    first, alone = configs[0], "train it by itself with train()"
    shapes = [[(name, p.shape) for name, p in model.named_parameters()] for model in models]
    for index, (model, config) in enumerate(zip(models, configs, strict=True)):
        free = {name: getattr(first, name) for name in _FREE}
        if replace(config, **free) != first:
            raise ValueError(
                f"configs may differ in {', '.join(_FREE)} only, got {config} beside {first}; "
                f"{alone}"
            )
        if config.precision != "float32" or config.channels_last:
            raise ValueError(
                f"configs must be float32 and not channels_last, got {config}; {alone}"
            )
        if shapes[index] != shapes[0]:
            raise ValueError(f"models must be alike, got other parameters in {index}; {alone}")
        dropout = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in model.modules())
        if dropout or list(model.buffers()):
            raise ValueError(
                f"models must have no buffers (batch norm) and no dropout, got a "
                f"{type(model).__name__} with such; {alone}"
            )

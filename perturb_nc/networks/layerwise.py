"""Layer-wise (greedy) training: each block is trained with a head of its own, then kept."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from perturb_nc.measure.dataset import Dataset
from perturb_nc.networks.checkpoints import EpochRecord
from perturb_nc.networks.training import TrainingConfig, train
from perturb_nc.storage import local
from perturb_nc.validation import at_least

OnLayer = Callable[[int, nn.Module, Dataset, list[EpochRecord]], None]


def train_layerwise(
    blocks: Iterable[nn.Module],
    dataset: Dataset,
    config: TrainingConfig,
    *,
    bias_last: bool = False,
    checkpoint_dir: str | Path | None = None,
    on_layer: OnLayer | None = None,
    batch_size: int = 1024,
) -> list[nn.Linear]:
    """Train blocks one after the other on frozen features; returns the head of every block.

    Block l and a new linear head are trained with `config` on the features that blocks 1..l-1
    give, then block l is frozen (in eval mode) and its features become the inputs of the next one.
    So every block sees features H0 that do not move: the setting of the near-collapse model. The
    features of one layer are held at a time, N·d floats.

    Args:
        blocks: modules on one device, each taking the outputs of the one before; their outputs
            are flattened for the head.
        checkpoint_dir: folder for one checkpoint per block, see `train`. Finished blocks are only
            read.
        on_layer: called with (index, block with `.block` and `.head`, the inputs it was trained
            on, history) after each block.
        batch_size: for computing features.

    Raises:
        ValueError: no blocks, and what `train` raises.
    """
    chain = list(blocks)
    at_least(len(chain), 1, "the number of blocks")
    at_least(batch_size, 1, "batch_size")
    inputs, heads = dataset, []
    for index, block in enumerate(chain):
        parameter = next(block.parameters())
        width = _features(block, inputs.inputs[:1].to(parameter.device)).shape[1]
        head = nn.Linear(width, dataset.num_classes, bias=bias_last).to(parameter.device)
        parts = OrderedDict(block=block, flatten=nn.Flatten(), head=head)
        stage = nn.Sequential(parts)
        path = (
            None
            if checkpoint_dir is None
            else local(checkpoint_dir, "checkpoint_dir") / f"block-{index}.pt"
        )
        history = train(stage, inputs, config, checkpoint=path)
        stage.eval().requires_grad_(False)
        heads.append(head)
        if on_layer is not None:
            on_layer(index, stage, inputs, history)
        if index + 1 < len(chain):
            features = [
                _features(block, rows.to(parameter.device), flat=False)
                for rows in inputs.inputs.split(batch_size)
            ]
            inputs = replace(inputs, inputs=torch.cat(features).to(inputs.inputs.device))
    return heads


@torch.no_grad()
def _features(block: nn.Module, inputs: torch.Tensor, *, flat: bool = True) -> torch.Tensor:
    training = block.training
    features = block.eval()(inputs)
    block.train(training)
    return features.flatten(1) if flat else features

"""Data parallel training under torchrun: every process takes its part of each batch.

    with processes() as device:
        train(model.to(device), dataset, config, checkpoint="run.pt")

run with `torchrun --nproc-per-node 2 script.py` trains as one process would, up to the order
of sums (batch normalisation sees a process's own part of a batch).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@contextmanager
def processes() -> Iterator[torch.device]:
    """Join the processes that torchrun started, and leave them at the end; gives the device.

    NCCL with one GPU a process where there are GPUs, gloo otherwise. Without torchrun there is
    one process and nothing to join.
    """
    cuda = torch.cuda.is_available()
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda else "cpu")
    if "WORLD_SIZE" not in os.environ:
        yield device
        return
    if cuda:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        distributed.destroy_process_group()


def world() -> tuple[int, int]:
    """(number of this process, number of processes); (0, 1) outside a process group."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def data_parallel(model: nn.Module) -> nn.Module:
    """A module that averages gradients over processes, or the model where there is one process."""
    if world()[1] == 1:
        return model
    device = next(model.parameters()).device
    return DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)


def part_of(*tensors: Tensor) -> tuple[Tensor, ...]:
    """This process's rows of a batch: every n-th one of n processes."""
    rank, size = world()
    return tuple(tensor[rank::size] for tensor in tensors) if size > 1 else tensors


def summed(totals: Tensor) -> Tensor:
    """The sum over processes."""
    if world()[1] > 1:
        distributed.all_reduce(totals)
    return totals

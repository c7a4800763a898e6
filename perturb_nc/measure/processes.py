"""The processes of a torch.distributed group, each with its samples, as one measurement."""

from collections.abc import Callable
from typing import Any

from torch import distributed

from perturb_nc.statistics import StatisticsBuilder

Builders = dict[str, StatisticsBuilder]


def in_group() -> bool:
    """Whether this process is one of several."""
    started = distributed.is_available() and distributed.is_initialized()
    return started and distributed.get_world_size() > 1


def is_first() -> bool:
    """Whether this process writes: the first of a group, or the only one."""
    return not in_group() or distributed.get_rank() == 0


def over_processes(build: Callable[[], Builders]) -> Builders:
    """What every process builds of its samples, reduced to one; all of them must call it.

    Raises:
        RuntimeError: another process failed, or met other layers. Nobody is left waiting.
    """
    if distributed.get_backend() == "gloo":
        distributed.monitored_barrier()  # names the processes that did not come
    builders: Builders = {}
    error = None
    try:
        builders = build()
    except Exception as raised:
        error = raised
    said: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(said, (list(builders), error and f"{error}"))
    if error is not None:
        raise error
    for rank, (layers, failure) in enumerate(said):
        if failure is not None or layers != list(builders):
            raise RuntimeError(
                f"process {rank} {failure or f'measured layers {layers}'}, and this one "
                f"{list(builders)}; every process must measure the same layers"
            )
    return {name: builder.all_reduce() for name, builder in builders.items()}

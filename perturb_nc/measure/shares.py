"""Which samples of a loader are those of this process, and none of them a repetition."""

from typing import Any

from torch.utils.data.distributed import DistributedSampler


def own_samples(loader: object) -> int | None:
    """How many samples of this process are no repetition; None when all are its own."""
    _check_even_batches(loader)
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler):
        return None
    total = len(sampler.dataset)  # type: ignore[arg-type]
    if sampler.total_size <= total:
        return None
    if type(sampler).__iter__ is not DistributedSampler.__iter__:
        raise ValueError(
            f"{type(sampler).__name__} repeats samples to fill up its processes ({total} to "
            f"{sampler.total_size}), and which ones is not known; make it with drop_last=True"
        )
    return max(0, -((sampler.rank - total) // sampler.num_replicas))


def _check_even_batches(loader: Any) -> None:
    """ValueError for batches that accelerate fills up with samples of other processes."""
    shard: Any = getattr(loader, "batch_sampler", None)
    processes = getattr(shard, "num_processes", 1)
    if processes < 2 or not getattr(shard, "even_batches", False):
        return
    size = shard.batch_size if shard.split_batches else shard.batch_size * processes
    total = len(loader.dataset)
    if total % size:
        raise ValueError(
            f"{type(shard).__name__} repeats samples to fill up its processes ({total} in batches "
            f"of {size} altogether); prepare the loader with even_batches=False"
        )

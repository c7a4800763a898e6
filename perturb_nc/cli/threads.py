"""How many threads a command computes on."""

import os
import sys

ALL = ("measure",)
"""Commands that run models of the user's, and take what torch takes: every core."""
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_MOST = 1024


def choose_threads(count: int | None, command: str | None) -> None:
    """Set the threads of a command, before torch is loaded if it is not yet.

    By default one: with more, a command whose matrices are small waits, beside any other process,
    for the slowest of them at every product (74 s where one thread takes 21 s). OMP_NUM_THREADS,
    where it is set, counts as asked for.

    Args:
        count: asked for, or None for the default.
        command: its name.

    Raises:
        ValueError: count is not in 1..1024.
    """
    if count is None and (command in ALL or "OMP_NUM_THREADS" in os.environ):
        return
    count = 1 if count is None else count
    if not 1 <= count <= _MOST:  # not by perturb_nc.validation, which loads torch
        raise ValueError(f"threads must be 1..{_MOST}, got {count}")
    for name in _VARIABLES:
        os.environ[name] = str(count)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(count)

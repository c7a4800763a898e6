"""What all pieces share: where they run, how large, where to write, until when."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


class OutOfTimeError(Exception):
    """The time of this call is used up; what is done is kept, and the next call goes on."""


@dataclass(frozen=True)
class Setting:
    """Where and how large.

    Attributes:
        device: of the networks, features and theory.
        tiny: a rehearsal of seconds a piece, on random images where CIFAR-10 is not in the cache.
        output: folder of the results, which are committed.
        state: folder of checkpoints, which are not.
        deadline: of `time.monotonic`, at which training stops after its epoch.
    """

    device: torch.device
    tiny: bool
    output: Path
    state: Path
    deadline: float

    def check_time(self) -> None:
        """OutOfTimeError at the deadline."""
        if time.monotonic() > self.deadline:
            raise OutOfTimeError

    def wait(self) -> None:
        """Until the device has done what it was given, for timings."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Piece:
    """A part of the work: `make` returns its record and writes its files NAME*.safetensors."""

    name: str
    make: Callable[[Setting, str], dict[str, Any]]

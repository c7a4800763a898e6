"""The state of a training run, and its file."""

import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from perturb_nc.storage import load_tensors, replacing


@dataclass(frozen=True)
class EpochRecord:
    """One epoch: its number (from 1), and loss and accuracy as met while training.

    `loss` is the mean over the samples, without weight decay; `accuracy` is a share in 0..1.
    Both were taken in training mode with the parameters of the moment. `learning_rate` is that of
    the last step.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float


@dataclass(frozen=True, eq=False)
class Run:
    """What changes while training.

    Attributes:
        generator: draws the order of the samples.
        history: the epochs done.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: list[EpochRecord]

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write all that decides the rest of the run, atomically."""
        state = {
            "identity": dict(identity),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "global_generator": torch.get_rng_state(),  # dropout draws from it
            "history": [asdict(record) for record in self.history],
        }
        content = io.BytesIO()  # torch's own writer makes of a full disk what it likes
        torch.save(state, content)
        with replacing(path) as temporary:
            temporary.write_bytes(content.getbuffer())

    def restore(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Go back to a file; ValueError when it is of another run or no checkpoint.

        `identity` must be the one it was saved with, but more epochs may be asked for, unless the
        schedule depends on their number.
        """
        remedy = "delete the file or give another checkpoint path to start anew"
        try:
            state = load_tensors(path)
            saved = dict(state["identity"])
            records = [EpochRecord(**record) for record in state["history"]]
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is not a checkpoint of train(); {remedy}") from error
        free = {"epochs"} if identity["schedule"] == "milestones" else set()
        different = [
            f"{name} (file {saved.get(name)!r}, now {value!r})"
            for name, value in identity.items()
            if name not in free and saved.get(name) != value
        ]
        if free and identity["epochs"] < len(records):
            different.append(f"epochs (file has done {len(records)}, now {identity['epochs']})")
        if different:
            raise ValueError(f"checkpoint {path} differs in {', '.join(different)}; {remedy}")
        try:
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.generator.set_state(state["generator"])
            torch.set_rng_state(state["global_generator"])
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"checkpoint {path} is of another model; {remedy}") from error
        self.history.extend(records)

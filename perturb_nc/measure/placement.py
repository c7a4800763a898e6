"""Inputs go where a model computes, in its floating dtype."""

from itertools import chain
from typing import Any

import torch
from torch import nn


class Placement:
    """Copies inputs to where a model computes, floats in its dtype."""

    def __init__(self, model: nn.Module) -> None:
        # Parameters on "meta" are elsewhere, and come when they are needed.
        held = [t for t in chain(model.parameters(), model.buffers()) if not t.is_meta]
        moves_itself = any(hasattr(m, "_hf_hook") for m in model.modules())
        if not (held or moves_itself) and any(True for _ in model.parameters()):
            raise ValueError(
                "model has no numbers: all its parameters are on device meta; load its weights "
                "first, as model.to_empty(device='cpu') and model.load_state_dict(...)"
            )
        self._device = held[0].device if held and not moves_itself else None
        kinds = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        self._dtype = next((t.dtype for t in held if t.dtype in kinds), None)

    def __call__(self, x: Any) -> Any:
        if not torch.is_tensor(x):
            return x
        dtype = self._dtype if x.is_floating_point() and self._dtype is not None else x.dtype
        return x.detach().to(self._device or x.device, dtype, copy=True)

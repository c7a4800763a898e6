"""Measuring leaves no trace: modes, gradients, generators of random numbers, compiled code."""

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module, loader: object) -> Iterator[None]:
    """The model in eval mode, without gradients, uncompiled; everything as before on leaving.

    That holds for the generators of Python, NumPy and torch (with the devices in use) and those of
    the loader, from which a DataLoader draws a seed at every pass. Not restored, as they are out of
    reach: generators inside worker processes that persist, and others of the data set.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # compiled code passes by hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(_generators_kept(loader))
        stack.enter_context(_layer_by_layer())
        stack.enter_context(_on_one_device(model))
        stack.enter_context(_evaluating(model))
        yield


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """What is computed and kept here follows no mode under which the model may run."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        if torch.get_default_device().type != device.type:
            stack.enter_context(device)
        yield


@contextmanager
def _generators_kept(loader: object) -> Iterator[None]:
    states = [(put, get()) for get, put in _generators(loader)]
    try:
        yield
    finally:
        for put, state in states:
            put(state)


def _generators(loader: object) -> Iterator[tuple[Callable[[], Any], Callable[[Any], Any]]]:
    yield random.getstate, random.setstate
    yield np.random.get_state, np.random.set_state
    yield torch.get_rng_state, torch.set_rng_state
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
    if torch.backends.mps.is_available():
        yield torch.mps.get_rng_state, torch.mps.set_rng_state
    sampler, batch_sampler = (getattr(loader, n, None) for n in ("sampler", "batch_sampler"))
    for owner in (loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator.get_state, generator.set_state


@contextmanager
def _layer_by_layer() -> Iterator[None]:
    """Encoders of torch run their layers on ordinary tensors, not the fused path of eval mode."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


@contextmanager
def _on_one_device(model: nn.Module) -> Iterator[None]:
    """Parallel modules inside the model run their own module, whose hooks see whole batches."""
    parallel = [m for m in model.modules() if isinstance(m, nn.DataParallel)]
    devices = [m.device_ids for m in parallel]
    try:
        for module in parallel:
            module.device_ids = []
        yield
    finally:
        for module, ids in zip(parallel, devices, strict=True):
            module.device_ids = ids


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode; then the modes as they were, by the modules' own `train`, outermost first.

    Some modules do more than set the flag: adapters of low rank merge their weights in eval mode.
    """
    training = {module: module.training for module in model.modules()}
    try:
        try:
            model.eval()
        except NotImplementedError as error:  # of torch.export, fixed in the mode it was made in
            raise TypeError(
                f"model cannot be set to eval mode ({error}); pass the module it was exported from"
            ) from error
        yield
    finally:
        for module, flag in training.items():
            if module.training != flag:
                module.train(flag)
        for module, flag in training.items():
            module.training = flag

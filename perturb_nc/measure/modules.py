"""The modules of a model by name: wrappers looked through, containers opened."""

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

Layers = str | int | nn.Module | Sequence[str | int | nn.Module]
"""Names, patterns ("blocks.*"), or modules of a model."""

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# Wrappers that must run, but whose one child has their name: compiled, sharded, checkpointed.
_INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OPENED = (*_LISTS, nn.TransformerEncoder, nn.TransformerDecoder)
_SKIPPED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten)


def plain_model(model: Any) -> nn.Module:
    """The model inside parallel and compiled wrappers, or TypeError with what to pass instead."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model is TorchScript, whose layers cannot be watched; pass the module it was made from"
        )
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; of a function, give its "
            "features to ClassStatistics.from_features(function(inputs), labels)"
        )
    while True:
        if isinstance(model, _PARALLEL):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model.get_submodule("_orig_mod")
        else:
            return model


def modules_by_name(model: nn.Module) -> dict[str, nn.Module]:
    """Every module by its name in the plain model, wherever it is wrapped."""
    found: dict[str, nn.Module] = {}
    for name, child in _children(model):
        found[name] = child
        found |= {f"{name}.{inner}": module for inner, module in modules_by_name(child).items()}
    return found


def found_layers(model: nn.Module, prefix: str = "", *, in_stack: bool = False) -> dict[str, Any]:
    """Layers by the rule of `collect_statistics`; a module under several names has the first."""
    found: dict[str, nn.Module] = {}
    in_stack = in_stack or _is_stack(model)
    for name, child in _children(model):
        path = f"{prefix}{name}"
        if isinstance(child, _SKIPPED):
            continue
        inside = {}
        if _is_opened(child) or (not in_stack and _holds_stack(child)):
            inside = found_layers(child, f"{path}.", in_stack=in_stack)
        if not _is_opened(child):
            inside[path] = child
        known = {id(module) for module in found.values()}
        found |= {n: module for n, module in inside.items() if id(module) not in known}
    return found


def named_layers(model: nn.Module, layers: Layers) -> tuple[dict[str, nn.Module], set[str]]:
    """The layers asked for, and those among them that were named one by one.

    Raises:
        ValueError: none, a name or pattern that fits no module, or a module of another model.
    """
    wanted = [layers] if isinstance(layers, str | int | nn.Module) else list(layers or ())
    if not wanted:
        raise ValueError(f"layers must hold at least one name, got {layers!r}")
    modules = modules_by_name(model)
    chosen: dict[str, nn.Module] = {}
    single: set[str] = set()
    for item in wanted:
        if isinstance(item, str) and "*" in item:
            chosen |= {n: modules[n] for n in _matching(item, modules)}
            continue
        name = _name_of(item, modules)
        single.add(name)
        chosen[name] = modules[name]
    return chosen, single


def _name_of(item: str | int | nn.Module, modules: dict[str, nn.Module]) -> str:
    if isinstance(item, nn.Module):
        inner = _looked_through(item)
        for name, module in modules.items():
            if module is inner:
                return name
        raise ValueError(
            f"layers must hold modules of this model, got a {type(item).__name__} that is none; "
            f"there are {list(modules)[:20]}"
        )
    name = str(item)
    bare = [part for part in name.split(".") if part not in _INNER]  # as named_modules() has it
    for candidate in (name, ".".join(bare), ".".join(part for part in bare if part != "module")):
        if candidate in modules:
            return candidate
    raise ValueError(f"layers must name modules, got {name!r}; there are {_near(name, modules)}")


def _matching(pattern: str, modules: dict[str, nn.Module]) -> list[str]:
    """Names that fit: * stands for anything but a dot, ** for anything."""
    parts = [re.escape(part).replace(r"\*", "[^.]*") for part in pattern.split("**")]
    fits = [name for name in modules if re.fullmatch(".*".join(parts), name)]
    if not fits:
        near = _near(pattern, modules)
        raise ValueError(f"layers {pattern!r} fits no module; there are {near}")
    return fits


def _near(name: str, modules: dict[str, nn.Module]) -> list[str]:
    return get_close_matches(name, modules) or list(modules)[:20]


def _looked_through(module: nn.Module) -> nn.Module:
    while True:
        if isinstance(module, _PARALLEL):
            module = module.module
        elif inner := next((n for n in _INNER if n in module._modules), None):
            module = module.get_submodule(inner)
        else:
            return module


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in _looked_through(module)._modules.items():
        if child is None or (name == "parametrizations" and parametrize.is_parametrized(module)):
            continue
        yield name, _looked_through(child)


def _is_opened(module: nn.Module) -> bool:
    # A bare nn.Module only holds others: tracing by torch.fx leaves it in place of blocks.
    return isinstance(module, _OPENED) or type(module) is nn.Module


def _is_stack(module: nn.Module) -> bool:
    """A list of two or more blocks of one class, made of more than single operations.

    The convolutions of a branch, each with its normalisation, are no blocks of an encoder.
    """
    if not isinstance(module, _LISTS):
        return False
    blocks = [child for _, child in _children(module)]
    alike = len(blocks) > 1 and len({type(block) for block in blocks}) == 1
    return alike and any(part._modules for block in blocks for _, part in _children(block))


def _holds_stack(module: nn.Module) -> bool:
    return any(_is_stack(child) or _holds_stack(child) for _, child in _children(module))

"""The layers of any torch model: which they are, and their features batch by batch, by hooks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from perturb_nc.measure.reductions import Reduction, reduction_named
from perturb_nc.validation import as_labels, as_tensor, at_least

Taker = Callable[[str, Tensor, Tensor], None]
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, *_WRAPPERS)
_SKIPPED = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.Flatten)


def walk_layers(
    model: nn.Module,
    loader: Iterable[Any],
    take: Taker,
    *,
    layers: Sequence[str] | None = None,
    at: str = "output",
    reduce: str | Reduction = "flatten",
    num_classes: int | None = None,
    after_batch: Callable[[Any, Tensor], None] | None = None,
) -> None:
    """Give `take(name, features (N, d), labels (N,))` every layer of every batch, as it runs.

    Which layers these are, and all arguments and errors but these: see `collect_statistics`.

    Args:
        take: must not keep the features, which may be overwritten.
        after_batch: called with the outputs of the model and the labels after each batch.
    """
    if at not in ("output", "input"):
        raise ValueError(f"at must be 'output' or 'input', got {at!r}")
    reduction = reduction_named(reduce)
    if num_classes is not None:
        at_least(num_classes, 2, "num_classes")
    while isinstance(model, _WRAPPERS):
        model = model.module
    modules = _found(model) if layers is None else _named(model, layers)
    walk = _Walk(reduction, take)
    device = next((p.device for p in model.parameters()), None)
    with _evaluating(model), walk.attached(modules, at), torch.no_grad():
        for batch in loader:
            inputs, labels = _pair(batch, num_classes)
            walk.begin(labels)
            outputs = model(inputs.to(device))
            walk.end(modules if layers is not None else ())
            if after_batch is not None:
                after_batch(outputs, labels)
            del outputs  # they must not live on beside those of the next batch
    walk.check()


class _Walk:
    """Gives the features of each layer and call away, right in the hooks."""

    def __init__(self, reduction: Reduction, take: Taker) -> None:
        self._reduction = reduction
        self._take = take
        self._labels: Tensor | None = None  # of the batch under way; None between batches
        self._calls: dict[str, int] = {}  # in the batch under way
        self._expected: set[str] | None = None  # layers of the first batch

    @contextmanager
    def attached(self, modules: dict[str, nn.Module], at: str) -> Iterator[None]:
        """Hooks on the modules while the context lasts, removed whatever happens."""
        with ExitStack() as stack:
            for name, module in modules.items():
                # An input is taken before the module runs: in-place modules overwrite it.
                if at == "input":
                    handle = module.register_forward_pre_hook(self._input_hook(name))
                else:
                    handle = module.register_forward_hook(self._output_hook(name))
                stack.callback(handle.remove)
            yield

    def begin(self, labels: Tensor) -> None:
        self._labels, self._calls = labels, {}

    def end(self, requested: Iterable[str]) -> None:
        """After a batch: every requested layer ran, and the same layers as in the first batch."""
        self._labels = None
        never = [name for name in requested if name not in self._calls]
        if never:
            raise ValueError(
                f"layers {never} never ran in the forward pass; leave them out of layers, or name "
                "the module that is called in their place"
            )
        ran = {_call_name(name, k + 1) for name, n in self._calls.items() for k in range(n)}
        if self._expected is None:
            self._expected = ran
        if ran != self._expected:
            raise ValueError(
                f"layers {sorted(ran ^ self._expected)} ran in some batches only, so that their "
                "statistics would miss samples; leave them out with layers=…"
            )

    def check(self) -> None:
        """After the last batch: there was one, and it met a layer."""
        if self._expected is None:
            raise ValueError("loader gave no batch; a used-up iterator must be made anew")
        if not self._expected:
            raise ValueError(
                "no layers were found to run in the model; name them with layers=[…], or wrap a "
                "single layer in torch.nn.Sequential"
            )

    def _input_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            self._record(name, args[0] if args else None)

        return hook

    def _output_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._record(name, output)

        return hook

    def _record(self, name: str, value: Any) -> None:
        if self._labels is None:
            return  # someone else runs the model, perhaps the loader
        self._calls[name] = self._calls.get(name, 0) + 1
        name = _call_name(name, self._calls[name])
        x = _activation(value, name, len(self._labels))
        try:
            self._take(name, self._reduction(x), self._labels.to(x.device))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        except MemoryError as error:
            raise MemoryError(
                f"layer {name!r}: {error}; or pass covariance='span', "
                "reduce=random_projection(512), or layers=…"
            ) from error


def _activation(value: Any, name: str, batch_size: int) -> Tensor:
    x = value[0] if isinstance(value, tuple | list) and value else value
    if not isinstance(x, Tensor):
        raise TypeError(
            f"layer {name!r} must give a tensor (or a tuple that starts with one), got "
            f"{type(x).__name__}; choose modules inside or around it with layers=[…]"
        )
    if not x.is_floating_point():
        raise TypeError(f"layer {name!r} must give floats, got {x.dtype}; leave it out of layers")
    if x.ndim == 0 or len(x) != batch_size:
        raise ValueError(
            f"layer {name!r} must give one row per sample, got shape {tuple(x.shape)} for a batch "
            f"of {batch_size}; leave it out of layers, or make the batch its first dimension"
        )
    return x


def _call_name(name: str, call: int) -> str:
    return name if call == 1 else f"{name}#{call}"


def _found(model: nn.Module, prefix: str = "") -> dict[str, nn.Module]:
    """Layers by the rule of `collect_statistics`; a module under several names has the first."""
    found: dict[str, nn.Module] = {}
    for name, child in model.named_children():
        if isinstance(child, _CONTAINERS):
            inside = _found(child, f"{prefix}{name}.")
        else:
            inside = {} if isinstance(child, _SKIPPED) else {f"{prefix}{name}": child}
        known = {id(module) for module in found.values()}
        found |= {n: module for n, module in inside.items() if id(module) not in known}
    return found


def _named(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    if isinstance(layers, str) or not layers:
        raise ValueError(f"layers must be a list of at least one name, got {layers!r}")
    modules = dict(model.named_modules(remove_duplicate=False))
    for name in layers:
        if name not in modules:
            names = [n for n in modules if n]
            close = get_close_matches(name, names) or names[:20]
            raise ValueError(f"layers must name modules, got {name!r}; there are {close}")
    return {name: modules[name] for name in layers}


def _pair(batch: Any, num_classes: int | None) -> tuple[Tensor, Tensor]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(
            f"loader must give (inputs, labels) pairs, got {type(batch).__name__}; wrap it in a "
            "generator that picks the two"
        )
    inputs = as_tensor(batch[0], "inputs")
    return inputs, as_labels(batch[1], len(inputs), num_classes=num_classes)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in training.items():
            module.training = flag

"""The features of the layers of any torch model, batch by batch, by hooks."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from perturb_nc.measure.arguments import Unpack
from perturb_nc.measure.failures import explained
from perturb_nc.measure.loading import Call, Loader, calls
from perturb_nc.measure.modules import Layers, found_layers, named_layers, plain_model
from perturb_nc.measure.reductions import Reducer, Reduction
from perturb_nc.measure.undisturbed import plain_arithmetic, undisturbed
from perturb_nc.validation import at_least

Taker = Callable[[str, Tensor, Tensor], None]
_WITHOUT_FLOAT64 = ("mps",)
_STATES = ("last_hidden_state", "logits")  # of the records that transformers return


def walk_layers(
    model: nn.Module,
    loader: Loader,
    take: Taker,
    *,
    layers: Layers | None = None,
    at: str = "output",
    reduce: str | Reduction = "pool",
    num_classes: int | None = None,
    unpack: Unpack | None = None,
    after_batch: Callable[[Any, Tensor], None] | None = None,
) -> Tensor:
    """Give `take(name, features (N, d), labels (N,))` every layer of every batch, as it runs.

    Which layers these are, and all arguments and errors but these: see `collect_statistics`.

    Args:
        take: must keep copies only: the model overwrites what it gives.
        after_batch: called with the outputs of the model and the labels after each batch.

    Returns:
        How many samples of each class there were.
    """
    if at not in ("output", "input"):
        raise ValueError(f"at must be 'output' or 'input', got {at!r}")
    if num_classes is not None:
        at_least(num_classes, 2, "num_classes")
    model = plain_model(model)
    modules, required = (
        (found_layers(model), set()) if layers is None else named_layers(model, layers)
    )
    walk = _Walk(Reducer(reduce, model), take)
    counts = torch.zeros(num_classes or 0, dtype=torch.int64, device="cpu")
    with undisturbed(model, loader), walk.attached(modules, at):
        for call in calls(model, loader, unpack=unpack, num_classes=num_classes):
            walk.begin(call)
            with explained(model):
                outputs = model(*call.args, **call.kwargs)
            walk.end(required)
            counts = _added(counts, call.labels)
            if after_batch is not None:
                with plain_arithmetic(call.labels.device):
                    after_batch(outputs, call.labels)
            del outputs  # they must not live on beside those of the next batch
    walk.check(modules)
    return counts


def _added(counts: Tensor, labels: Tensor) -> Tensor:
    more = torch.bincount(labels.cpu(), minlength=len(counts))
    more[: len(counts)] += counts
    return more


class _Walk:
    """Gives the features of each layer and call away, right in the hooks."""

    def __init__(self, reducer: Reducer, take: Taker) -> None:
        self._reducer = reducer
        self._take = take
        self._batch: Call | None = None  # under way; None between batches
        self._calls: dict[str, int] = {}  # in the batch under way
        self._expected: set[str] | None = None  # layers of the first batch

    @contextmanager
    def attached(self, modules: dict[str, nn.Module], at: str) -> Iterator[None]:
        """Hooks on the modules while the context lasts, removed whatever happens."""
        with ExitStack() as stack:
            for name, module in modules.items():
                if isinstance(module, torch.jit.ScriptModule):
                    raise TypeError(
                        f"layer {name!r} is TorchScript, which cannot be watched; put the module "
                        "it was made from in its place, or leave it out with layers=…"
                    )
                # An input is taken before the module runs: in-place modules overwrite it.
                if at == "input":
                    handle = module.register_forward_pre_hook(
                        self._input_hook(name), with_kwargs=True
                    )
                else:
                    handle = module.register_forward_hook(self._output_hook(name))
                stack.callback(handle.remove)
            yield

    def begin(self, batch: Call) -> None:
        self._batch, self._calls = batch, {}

    def end(self, required: Iterable[str]) -> None:
        """After a batch: every required layer ran, and the same layers as in the first batch."""
        self._batch = None
        never = [name for name in required if name not in self._calls]
        if never:
            raise ValueError(
                f"layers {never} never ran in the forward pass; leave them out of layers, or name "
                f'the modules that are called in their place, as layers="{never[0]}.*"'
            )
        ran = {_call_name(name, k + 1) for name, n in self._calls.items() for k in range(n)}
        if self._expected is None:
            self._expected = ran
        if ran != self._expected:
            raise ValueError(
                f"layers {sorted(ran ^ self._expected)} ran in some batches only, so that their "
                "statistics would miss samples; leave them out with layers=…"
            )

    def check(self, modules: Iterable[str]) -> None:
        """After the last batch: there was one, it met a layer, and which layers it never met."""
        if self._expected is None:
            raise ValueError("loader gave no batch; a used-up iterator must be made anew")
        if not self._expected:
            raise ValueError(
                "no layers were found to run in the model; name them with layers=[…], or wrap a "
                "single layer in torch.nn.Sequential"
            )
        never = [
            name
            for name in modules
            if name not in self._expected
            and not any(ran.startswith(f"{name}.") for ran in self._expected)
        ]
        if never:
            warnings.warn(
                f"layers {never} never ran in the forward pass and have no statistics; name the "
                "modules that are called in their place with layers=…, or those wanted only",
                stacklevel=4,
            )

    def _input_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._record(name, module, next(iter((*args, *kwargs.values())), None))

        return hook

    def _output_hook(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._record(name, module, output)

        return hook

    def _record(self, name: str, module: nn.Module, value: Any) -> None:
        batch = self._batch
        if batch is None:
            return  # someone else runs the model, perhaps the loader
        self._calls[name] = self._calls.get(name, 0) + 1
        name = _call_name(name, self._calls[name])
        x = _activation(value, name)
        x = self._reducer.samples_first(name, module, x.detach(), len(batch.labels))
        try:
            with plain_arithmetic(torch.device("cpu") if _on_cpu(x) else x.device):
                x, y = self._reducer(module, x, batch.labels, batch.mask)
                if _on_cpu(x):
                    x = x.cpu()
                self._take(name, x, y.to(x.device))
        except ValueError as error:
            raise ValueError(f"layer {name!r}: {error}") from error
        except MemoryError as error:
            raise MemoryError(
                f"layer {name!r}: {error}; or pass covariance='span', "
                "reduce=random_projection(512), or layers=…"
            ) from error


def _on_cpu(x: Tensor) -> bool:
    """Whether float64 sums of a tensor are taken on the CPU, as its device has no float64."""
    return x.device.type in _WITHOUT_FLOAT64


def _activation(value: Any, name: str) -> Tensor:
    x = value[0] if isinstance(value, tuple | list) and value else value
    if isinstance(value, Mapping):
        x = next((value[key] for key in _STATES if key in value), value)
    if not isinstance(x, Tensor) or isinstance(value, PackedSequence):
        raise TypeError(
            f"layer {name!r} must give a tensor (or a tuple that starts with one), got "
            f"{type(value if isinstance(value, PackedSequence) else x).__name__}; choose modules "
            "inside or around it with layers=[…]"
        )
    if x.is_meta:
        raise ValueError(
            f"layer {name!r} gave no numbers (a tensor on 'meta'); load the model's weights first"
        )
    if not x.is_floating_point():
        raise TypeError(f"layer {name!r} must give floats, got {x.dtype}; leave it out of layers")
    return x


def _call_name(name: str, call: int) -> str:
    return name if call == 1 else f"{name}#{call}"

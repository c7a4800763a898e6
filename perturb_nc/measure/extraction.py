"""Class statistics of every layer of a torch model, and how well their class means classify."""

from typing import Any, Literal, overload

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from perturb_nc.measure.arguments import Unpack
from perturb_nc.measure.layers import Taker, walk_layers
from perturb_nc.measure.loading import Loader, counts_at_hand, is_read_once
from perturb_nc.measure.modules import Layers
from perturb_nc.measure.reductions import Reduction
from perturb_nc.span_statistics import MeansBuilder, SpanBuilder, SpanStatistics
from perturb_nc.statistics import ClassStatistics, StatisticsBuilder

__all__ = ["SpanStatistics", "collect_features", "collect_statistics"]


@overload
def collect_statistics(
    model: nn.Module,
    loader: Loader,
    *,
    layers: Layers | None = None,
    at: str = "output",
    reduce: str | Reduction = "pool",
    num_classes: int | None = None,
    covariance: Literal["full"] = "full",
    unpack: Unpack | None = None,
) -> dict[str, ClassStatistics]: ...


@overload
def collect_statistics(
    model: nn.Module,
    loader: Loader,
    *,
    layers: Layers | None = None,
    at: str = "output",
    reduce: str | Reduction = "pool",
    num_classes: int | None = None,
    covariance: Literal["span"],
    unpack: Unpack | None = None,
) -> dict[str, SpanStatistics]: ...


@torch.inference_mode(False)
def collect_statistics(
    model: nn.Module,
    loader: Loader,
    *,
    layers: Layers | None = None,
    at: str = "output",
    reduce: str | Reduction = "pool",
    num_classes: int | None = None,
    covariance: str = "full",
    unpack: Unpack | None = None,
) -> dict[str, ClassStatistics] | dict[str, SpanStatistics]:
    """Statistics of every layer of any torch model, in order of execution, in one pass.

    The layers are the modules reached from the root by opening containers: Sequential, ModuleList,
    ModuleDict, TransformerEncoder and TransformerDecoder, and the bare modules that tracing by
    torch.fx leaves. A module of another class that holds a list of two or more blocks of one class
    (an encoder; blocks of more than single operations) is opened too, and stands behind its blocks.
    Dropout, Identity and Flatten are skipped. Wrappers (parallel, compiled, sharded) have no name
    of their own: their inner module is named; at the root, and where code is compiled, it runs
    uncompiled in this process. The k-th call of a module within one forward pass is reported as
    "name#k" from k = 2 on.

    The model runs in eval mode without gradients, on its own device, on copies of the inputs; its
    modes, the generators of random numbers and hooks are as before whatever happens. Reductions
    and sums leave autocast out, and sums are float64 (on the CPU where the device has no float64,
    as MPS). No activation outlives its layer: memory is O(Kd + d²) a layer, O(Kd) with
    `covariance="span"`.

    Args:
        loader: (inputs, labels) batches with labels 0..K-1; inputs are one array, a tuple of
            tensors, or a dictionary of keywords. Dictionaries with "labels" (as of Hugging Face), a
            `Dataset` and data sets of torch do as well. Samples that a `DistributedSampler`
            repeats are left out.
        layers: names as in `model.named_modules()`, patterns ("blocks.*": * stands for anything
            but a dot, ** for anything), or modules, instead of those found.
        at: "output", or "input" for the first input of each layer. Of a tuple or list the first
            element is taken, of a dictionary "last_hidden_state" or "logits".
        reduce: activations (N, ...) to features (N, d), by name or by a function (N, ...) → (N, d),
            see `random_projection`. "pool" takes the mean over positions for each channel, what
            the head of a network with global pooling reads; it refuses activations that may have
            channels first or last, as (N, T, C). Then choose "channels" (mean over all axes after
            the second), "tokens" (mean over all axes but first and last), "class_token",
            "last_token", "all_tokens" (each a sample) or "flatten". Padding that an
            "attention_mask" among the inputs names is left out. With batch_first=False time-first
            activations are turned round.
        num_classes: K; None takes the largest label.
        covariance: "full" (d×d), or "span" for features too wide for that, as unpooled
            convolutions: `SpanStatistics` of dimension K + 1 with the same metrics and for
            them alone, from two passes over the loader, which must give the same samples.
        unpack: batch → (inputs, labels), for batches of another kind, as
            `lambda batch: batch[:2]` for (inputs, labels, index).

    Raises:
        ValueError: an unknown or unused layer, no batch, a first dimension that is not the batch,
            axes that "pool" would have to guess, NaN or infinity in a layer, a class without
            samples, or, with covariance "span", a loader that gives its batches only once, or other
            samples the second time.
        TypeError: a model that is no module of Python (TorchScript, a function), or a layer that
            gives no tensor of floats.
        MemoryError: d×d does not fit; reduce d, or take covariance "span".

    Warns:
        UserWarning: layers that were found, not asked for, and never ran.

    Example:
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> loader = [(torch.randn(30, 5), torch.arange(30) % 3)]
        >>> layers = pnc.collect_statistics(model, loader, layers=["0", "1"])
        >>> [(name, s.num_samples, s.dim) for name, s in layers.items()]
        [('0', 30, 8), ('1', 30, 8)]

    See Also:
        collapse_metrics: what to read of them. save_layers: to keep them.
    """
    if covariance not in ("full", "span"):
        raise ValueError(f"covariance must be 'full' or 'span', got {covariance!r}")
    _refuse_missing(counts_at_hand(loader, num_classes, unpack))
    options: dict[str, Any] = {"layers": layers, "at": at, "reduce": reduce, "unpack": unpack}
    if covariance == "full":
        builders, counts = collect_builders(model, loader, num_classes=num_classes, **options)
        _refuse_missing(counts)
        return {name: builder.result() for name, builder in builders.items()}
    if is_read_once(loader):
        raise ValueError(
            "loader must give its batches twice with covariance='span', and an iterator gives them "
            "once; make it a list, a DataLoader, or an object with __iter__"
        )

    def walk(take: Taker) -> Tensor:
        """One pass over the loader."""
        return walk_layers(model, loader, take, num_classes=num_classes, **options)

    first: dict[str, MeansBuilder] = {}
    counts = walk(lambda name, x, y: first.setdefault(name, MeansBuilder(num_classes)).update(x, y))
    _refuse_missing(counts)
    second = {name: SpanBuilder(*builder.result()) for name, builder in first.items()}
    walk(lambda name, x, y: second[name].update(x, y))
    return {name: _result(name, builder) for name, builder in second.items()}


def _result(name: str, builder: SpanBuilder) -> SpanStatistics:
    try:
        return builder.result()
    except ValueError as error:
        raise ValueError(f"layer {name!r}: {error}") from error


def collect_builders(
    model: nn.Module,
    loader: Loader,
    *,
    num_classes: int | None = None,
    **options: Any,
) -> tuple[dict[str, StatisticsBuilder], Int64[Tensor, "K"]]:
    """What `collect_statistics` makes its full statistics of, and the samples of each class.

    For more passes, or the samples of other processes. No class is refused for having none.
    """
    builders: dict[str, StatisticsBuilder] = {}

    def update(name: str, x: Tensor, y: Tensor) -> None:
        """Adds a batch to the statistics of its layer."""
        builders.setdefault(name, StatisticsBuilder(num_classes)).update(x, y)

    counts = walk_layers(model, loader, update, num_classes=num_classes, **options)
    return builders, counts


def _refuse_missing(counts: Int64[Tensor, "K"] | None) -> None:
    if counts is None:
        return
    missing = (counts == 0).nonzero().flatten().tolist()
    if missing:
        raise ValueError(
            f"every class needs a sample, but classes {missing[:10]} of {len(counts)} have none in "
            "the loader; add some, or relabel by numpy.unique(labels, return_inverse=True)"
        )


@torch.inference_mode(False)
def collect_features(
    model: nn.Module,
    loader: Loader,
    *,
    layers: Layers | None = None,
    at: str = "output",
    reduce: str | Reduction = "pool",
    unpack: Unpack | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Features (N, d) of every layer, and the labels (N,): what `collect_statistics` reduces.

    For what needs the samples themselves, as `perturb_nc.sampling_intervals`. All of them are
    kept, as copies that no model overwrites: choose layers and samples with memory in mind.

    Args:
        model, loader, layers, at, reduce, unpack: as for `collect_statistics`.

    Raises:
        ValueError, TypeError: as `collect_statistics`.
    """
    features: dict[str, list[Tensor]] = {}
    labels: dict[str, list[Tensor]] = {}

    def take(name: str, x: Tensor, y: Tensor) -> None:
        """Keeps a batch of a layer."""
        # Views of activations, and of a loader's buffers, are overwritten by what comes after.
        features.setdefault(name, []).append(x.clone())
        labels.setdefault(name, []).append(y.clone())

    walk_layers(model, loader, take, layers=layers, at=at, reduce=reduce, unpack=unpack)
    found = {name: torch.cat(parts) for name, parts in labels.items()}
    first, y = next(iter(found.items()))
    for name, other in found.items():
        if not torch.equal(y, other.to(y.device)):
            raise ValueError(
                f"layers {first!r} and {name!r} have {len(y)} and {len(other)} samples, and other "
                "labels; choose layers, or another reduce"
            )
    return {name: torch.cat(parts) for name, parts in features.items()}, y

"""From the activations of a layer (N, ...) to features (N, d): the conventions, by name.

"flatten" keeps every entry as a feature of its own, "pool" takes the mean over positions for each
channel (what the head of a network with global pooling reads). Neither changes fully connected
layers. Papers on convolutional layers use either; every experiment here says which.

Which axis holds the channels a shape does not say, least of all one of three axes. It is read from
the module where the module defines it, and asked for by name elsewhere.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from perturb_nc.validation import at_least

Reduction = Callable[[Tensor], Tensor]
_Reduced = tuple[Tensor, Tensor]  # (M, d) and (M,); functions are checked when they are added up

REDUCTIONS = {
    "flatten": "every entry a feature of its own",
    "pool": "the mean over positions for each channel, where the module says which axis that is",
    "channels": "the mean over all axes after the second, for (N, C, positions…)",
    "tokens": "the mean over all axes but first and last, for (N, tokens, C); no padding",
    "class_token": "the first token of (N, tokens, C)",
    "last_token": "the last token of (N, tokens, C) that is no padding",
    "all_tokens": "every token of (N, tokens, C) a sample with the label of its sequence",
}
"""What `reduce` may be by name, beside a function of the activations (N, ...)."""

_TOKENS = ("tokens", "class_token", "last_token", "all_tokens")
_CHANNELS_FIRST = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm1d,
    nn.InstanceNorm2d, nn.InstanceNorm3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d,
    nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
)  # fmt: skip


class Reducer:
    """Applies one reduction to the activations of any layer, and says where it cannot.

    Raises:
        ValueError: an unknown name; activations whose layout the reduction would have to guess.
    """

    def __init__(self, reduce: str | Reduction, model: nn.Module) -> None:
        if not callable(reduce) and reduce not in REDUCTIONS:
            names = ", ".join(map(repr, REDUCTIONS))
            raise ValueError(f"reduce must be one of {names} or a function, got {reduce!r}")
        self._reduce = reduce
        self._time_first_model = any(_batch_first(m) is False for m in model.modules())
        self._time_first: dict[str, bool] = {}  # of layers whose module does not say

    def samples_first(self, name: str, module: nn.Module, x: Tensor, size: int) -> Tensor:
        """The activations (N, ...), of time-first ones (T, N, C) too."""
        if x.ndim >= 3 and self._is_time_first(name, module, x, size):
            x = x.transpose(0, 1)
        if x.ndim == 0 or len(x) != size:
            raise ValueError(
                f"layer {name!r} must give one row per sample, got shape {tuple(x.shape)} for a "
                f"batch of {size}; leave it out of layers, or make the batch its first dimension"
            )
        return x

    def __call__(
        self,
        module: nn.Module,
        x: Float[Tensor, "N *shape"],
        labels: Int64[Tensor, "N"],
        mask: Bool[Tensor, "N T"] | None,
    ) -> _Reduced:
        """Features and their labels."""
        how = self._reduce
        if not isinstance(how, str):
            return how(x), labels
        if x.ndim < 3 or how == "flatten":
            return x.reshape(len(x), -1), labels
        channels_first = isinstance(module, _CHANNELS_FIRST)
        if how == "pool":
            how = _layout(module, x)
        if how == "channels" or (how == "tokens" and channels_first):
            return _mean(x, tuple(range(2, x.ndim))), labels
        if channels_first:
            raise ValueError(
                f"activations {tuple(x.shape)} of a {type(module).__name__} are no tokens; choose "
                "layers, as layers=\"blocks.*\", or reduce='tokens', which averages them over space"
            )
        return _of_tokens(how, x, labels, mask)

    def _is_time_first(self, name: str, module: nn.Module, x: Tensor, size: int) -> bool:
        said = _batch_first(module)
        if said is not None:
            return not said
        if not self._time_first_model:
            return False
        if len(x) == size == x.shape[1] and name not in self._time_first:
            raise ValueError(
                f"layer {name!r} gives {tuple(x.shape)}, time or samples first, in a model with "
                f"batch_first=False and batches of {size}; take batches of another size"
            )
        return self._time_first.setdefault(name, x.shape[1] == size != len(x))


def _batch_first(module: nn.Module) -> bool | None:
    """What a recurrent or attention module says about its first axis."""
    if isinstance(module, nn.TransformerEncoder | nn.TransformerDecoder):
        module = module.layers[0]
    if isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
        module = module.self_attn
    said = getattr(module, "batch_first", None)
    return said if isinstance(said, bool) else None


def _layout(module: nn.Module, x: Tensor) -> str:
    """ "channels" or "tokens": along which axes positions lie; ValueError where nothing says."""
    if isinstance(module, _CHANNELS_FIRST):
        return "channels"
    # Not subclasses of LayerNorm: those of ConvNeXt normalise the second axis.
    last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm
    if _batch_first(module) is not None or last:
        return "tokens"
    # Squares followed by another number look like (N, H, W, C), as of Swin.
    if x.ndim > 3 and not (x.ndim == 4 and x.shape[1] == x.shape[2] != x.shape[3]):
        return "channels"
    choices = "; ".join(f"{n!r}: {REDUCTIONS[n]}" for n in (*_TOKENS, "channels", "flatten"))
    raise ValueError(
        f"activations of shape {tuple(x.shape)} may have channels first or last, and 'pool' does "
        f"not guess; choose reduce= by name ({choices}), or give a function"
    )


def _mean(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    # The mean of half-precision features must not be rounded to half precision. float32 sums (which
    # torch adds up pairwise) cost a thirtieth of float64 ones here.
    return x.mean(axes, dtype=torch.float32 if x.itemsize < 4 else None)


def _of_tokens(how: str, x: Tensor, labels: Tensor, mask: Tensor | None) -> _Reduced:
    """Features of (N, tokens…, C); what an attention mask calls padding counts for nothing."""
    if x.ndim == 4 and x.shape[1] != x.shape[2] == x.shape[3] > 1:
        raise ValueError(
            f"activations of shape {tuple(x.shape)} look like (N, C, H, W), and reduce={how!r} is "
            "for channels last; choose layers, or give a function"
        )
    if how == "tokens" and mask is None:
        return _mean(x, tuple(range(1, x.ndim - 1))), labels
    if x.ndim > 3 and how != "all_tokens":
        raise ValueError(f"activations of shape {tuple(x.shape)} are no sequence; see reduce=")
    x = x.flatten(1, -2)
    n, t = x.shape[:2]
    if mask is None:
        mask = torch.ones(n, t, dtype=torch.bool, device=x.device)
    if mask.shape != (n, t):
        raise ValueError(
            f"activations of shape {tuple(x.shape)} do not fit the attention mask "
            f"{tuple(mask.shape)}; give reduce= a function of them"
        )
    mask = mask.to(x.device)
    lengths = mask.sum(1)
    if how == "all_tokens":
        return x[mask], labels.to(x.device).repeat_interleave(lengths)
    if not lengths.all():
        raise ValueError("attention_mask hides every token of a sample; drop such samples")
    if how == "tokens":
        wide = x.float() if x.itemsize < 4 else x
        return (wide * mask[..., None]).sum(1) / lengths[:, None], labels
    places = torch.arange(t, device=x.device)
    last = torch.where(mask, places, -1).amax(1)
    first = torch.where(mask, places, t).amin(1)
    return x[torch.arange(n, device=x.device), last if how == "last_token" else first], labels


def random_projection(dim: int, *, seed: int = 0) -> Reduction:
    """A `reduce` that flattens and multiplies by a Gaussian D×dim matrix with variance 1/dim.

    Squared distances are kept in expectation (Johnson & Lindenstrauss), so trace ratios are
    too; pseudo-inverses and ranks are those of the projection. float32, drawn on the CPU from
    `seed` when an input dimension D is first met: the same matrix for the same D everywhere.
    """
    at_least(dim, 1, "dim")
    matrices: dict[tuple[int, torch.device], Tensor] = {}

    def project(x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N d"]:
        """Features times the matrix of their width, drawn once."""
        flat = x.reshape(len(x), -1).float()
        key = (flat.shape[1], flat.device)
        if key not in matrices:
            generator = torch.Generator().manual_seed(seed)
            gaussian = torch.randn(
                flat.shape[1], dim, generator=generator, dtype=torch.float32, device="cpu"
            )
            gaussian /= dim**0.5
            matrices[key] = gaussian.to(flat.device)
        return flat @ matrices[key]

    return project

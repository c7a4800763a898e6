"""From the activations of a layer (N, ...) to features (N, d): the conventions, by name.

"flatten" keeps every entry as a feature of its own, "pool" takes the mean over space for each
channel (what the head of a network with global pooling reads). Neither changes fully connected
layers. Papers on convolutional layers use either; every experiment here says which.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from perturb_nc.validation import at_least

Reduction = Callable[[Tensor], Tensor]


def reduction_named(reduce: str | Reduction) -> Reduction:
    """The function of a name ("flatten", "pool"), or the function itself."""
    if callable(reduce):
        return reduce
    if reduce == "flatten":
        return lambda x: x.reshape(len(x), -1)
    if reduce == "pool":
        return _pool
    raise ValueError(f"reduce must be 'flatten', 'pool' or a function, got {reduce!r}")


def _pool(x: Tensor) -> Tensor:
    if x.ndim < 3:
        return x.reshape(len(x), -1)
    # The mean of half-precision features must not be rounded to half precision. float32 sums (which
    # torch adds up pairwise) cost a thirtieth of float64 ones here.
    space = tuple(range(2, x.ndim))
    return x.mean(space, dtype=torch.float32 if x.itemsize < 4 else None)


def random_projection(dim: int, *, seed: int = 0) -> Reduction:
    """A `reduce` that flattens and multiplies by a Gaussian D×dim matrix with variance 1/dim.

    Squared distances are kept in expectation (Johnson & Lindenstrauss), so trace ratios are
    too; pseudo-inverses and ranks are those of the projection. float32, drawn on the CPU from
    `seed` when an input dimension D is first met: the same matrix for the same D everywhere.
    """
    at_least(dim, 1, "dim")
    matrices: dict[tuple[int, torch.device], Tensor] = {}

    def project(x: Float[Tensor, "N *shape"]) -> Float[Tensor, "N d"]:
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

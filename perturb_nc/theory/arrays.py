"""Matrices with leading batch dimensions: their types, and what numerics of points share."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from perturb_nc.moments import Scalar

Factor = Float64[Tensor, "... 1 1"]
Rows = Float64[Tensor, "... K d"]
Square = Float64[Tensor, "... K K"]
Mask = Bool[Tensor, "..."]


def cholesky(matrix: Float[Tensor, "... n n"]) -> Float[Tensor, "... n n"]:
    """Cholesky factors, NaN where a matrix of the batch is not positive definite."""
    root, failed = torch.linalg.cholesky_ex(matrix)
    if not failed.any():
        return root
    return torch.where((failed == 0)[..., None, None], root, torch.nan)


def together(
    through: Callable[[Rows], Rows], rows: Float64[Tensor, "... K d"], matrix: Tensor
) -> Float64[Tensor, "... K d"]:
    """Rows through a map with a d×d matrix (of a batch of them), which is read once for all.

    Rows may have one more leading dimension than the matrix.
    """
    if rows.ndim == matrix.ndim:
        return through(rows)
    side_by_side = rows.movedim(0, -3).flatten(-3, -2)
    return through(side_by_side).unflatten(-2, (len(rows), -1)).movedim(-3, 0)


def total(matrix: Float64[Tensor, "... m n"]) -> Scalar:
    """Sum over the last two dimensions."""
    return matrix.sum((-2, -1))


def relative(matrix: Float64[Tensor, "... m n"], bound: Scalar) -> Scalar:
    """Frobenius norm over a bound, 0 where that is 0."""
    return torch.where(bound == 0, 0.0, total(matrix.square()).sqrt() / bound)


def random_normal(*shape: int, like: Tensor) -> Tensor:
    """The same draws at every call and on every device."""
    generator = torch.Generator("cpu").manual_seed(0)
    found = torch.randn(*shape, generator=generator, dtype=torch.float64, device="cpu")
    return found.to(like.device)

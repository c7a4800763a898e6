"""What Newton steps minimise, at a batch of weights."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Int64
from torch import Tensor

from perturb_nc.moments import Scalar
from perturb_nc.theory.arrays import Rows, Square


@runtime_checkable
class Quadratic(Protocol):
    """A Hessian and what comes near it, at a batch of points."""

    @property
    def weight(self) -> Rows:
        """What varies."""

    def members(self, rows: Any) -> Any:
        """Some of the points of the batch."""

    def precondition(self, rows: Rows) -> Rows:
        """V through the inverse of the Hessian at fixed H, or what comes near it."""

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """The Hessian along V."""


@runtime_checkable
class Point(Quadratic, Protocol):
    """What is minimised, at a batch of weights (a last layer, and whatever joins it)."""

    @property
    def layer(self) -> Rows:
        """Its leading columns: W alone, which turns with the features."""

    @property
    def excess(self) -> Scalar:
        """The objective, less a constant, >= 0."""

    @property
    def gradient(self) -> Rows:
        """Its gradient."""

    @property
    def gradient_norm(self) -> Scalar:
        """Of that, relative to a bound."""

    @property
    def residual_moment(self) -> Square:
        """QQᵀ/N, with Q the gradient of the loss in the logits."""

    @property
    def scale(self) -> str:
        """Sizes to name where float64 does not suffice."""

    def anchor_overlap(self, rows: Rows, *, transposed: bool) -> Rows:
        """Rows times HH0ᵀ/N, or its transpose."""


Evaluate = Callable[[Rows], Point]
Points = Callable[[Int64[Tensor, "b"]], Evaluate]  # for some of the members of a batch


def wide(values: Tensor) -> Tensor:
    """(...) as (..., 1, 1)."""
    return values[..., None, None]

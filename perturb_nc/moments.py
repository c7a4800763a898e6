"""What collapse metrics read of features: class means, Σ_W and class variances."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float64
from torch import Tensor

Kind = TypeVar("Kind", bound="Moments")
Scalar = Float64[Tensor, "..."]


class Covariance(ABC):
    """A symmetric d×d matrix, or a batch of them, that is known by what it does to rows."""

    @abstractmethod
    def trace(self) -> Float64[Tensor, "..."]:
        """The trace."""

    @abstractmethod
    def through(self, rows: Float64[Tensor, "... n d"]) -> Float64[Tensor, "... n d"]:
        """Rows times the matrix."""


Matrix = Float64[Tensor, "... d d"] | Covariance


class Moments:
    """Base of all that metrics are functions of, of one feature set or (leading axes) of many.

    A dataclass with the three tensors below and whatever else: `ClassStatistics` (checked, with
    class sizes), `SpanStatistics`, and batches of predictions, `theory.batch_points`.

    Attributes:
        means: class means μ_k as rows.
        within: Σ_W.
        class_variance: v_k = (1/n_k) Σ_i |h_ki - μ_k|².
    """

    means: Float64[Tensor, "... K d"]
    within: Float64[Tensor, "... d d"]
    class_variance: Float64[Tensor, "... K"]

    @property
    def num_classes(self) -> int:
        """K."""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """d."""
        return self.means.shape[-1]

    @property
    def centered_means(self) -> Float64[Tensor, "... K d"]:
        """M̃ with rows μ_k - μ_G, μ_G the mean of the class means."""
        return self.means - self.means.mean(-2, keepdim=True)

    @property
    def between(self) -> Float64[Tensor, "... d d"]:
        """Σ_B = (1/K) Σ (μ_k - μ_G)(μ_k - μ_G)ᵀ, every class with the same weight."""
        return self.centered_means.mT @ self.centered_means / self.num_classes

    def _summary(self) -> dict[str, object]:
        """Sizes and traces: what a result prints, see `perturb_nc.summary`."""
        inside = self.within.diagonal(dim1=-2, dim2=-1).sum(-1)
        between = self.centered_means.square().sum((-2, -1)) / self.num_classes
        return {
            "num_classes": self.num_classes,
            "dim": self.dim,
            "within_trace": inside,
            "between_trace": between,
            "nc1_trace": inside / between,
        }

    def moved(self: Kind, means: Float64[Tensor, "... K d"], within: Matrix) -> Kind:
        """The same classes after a move of their features, with the new means and Σ_W.

        The class variances are the old ones times one factor, tr Σ_W new over old: exact in their
        mean always, and each when the class covariances share one shape. (Exact ones need the
        d×d covariance of every class: move the samples and take their statistics.)
        """
        old = trace(self.within)
        factor = torch.where(old > 0, trace(within) / old, 0.0)  # collapsed: nothing to scale
        variance = factor[..., None] * self.class_variance
        # Every kind is a dataclass, which the base cannot say.
        return replace(self, means=means, within=within, class_variance=variance)  # type: ignore[type-var]


def trace(matrix: Matrix) -> Scalar:
    """Trace of every matrix of a batch."""
    if isinstance(matrix, Covariance):
        return matrix.trace()
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)


def through(rows: Float64[Tensor, "... n d"], matrix: Matrix) -> Float64[Tensor, "... n d"]:
    """Rows times a symmetric matrix."""
    return matrix.through(rows) if isinstance(matrix, Covariance) else rows @ matrix

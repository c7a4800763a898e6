"""λ_W, λ_H and β: the parameters of (1), checked in one place."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float64
from torch import Tensor

from perturb_nc.validation import nonnegative, positive

HYPERPARAMETERS = ("lambda_w", "lambda_h", "beta")  # the order of every tensor that holds them


@dataclass(frozen=True)
class Regularization:
    """One setting, as Python floats.

    Attributes:
        lambda_w: λ_W > 0.
        lambda_h: λ_H >= 0.
        beta: β >= 0.

    Raises:
        ValueError: one that is negative or not finite.
    """

    lambda_w: float
    lambda_h: float
    beta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "lambda_w", positive(self.lambda_w, "lambda_w"))
        object.__setattr__(self, "lambda_h", nonnegative(self.lambda_h, "lambda_h"))
        object.__setattr__(self, "beta", nonnegative(self.beta, "beta"))

    def bounded(self) -> "Regularization":
        """The same, or ValueError where nothing bounds the features: λ_H = β = 0 has no optimum."""
        if self.lambda_h + self.beta == 0:
            raise ValueError(
                "lambda_h and beta must not both be 0: nothing would bound the features"
            )
        return self

    def as_tensor(self, like: Tensor) -> Float64[Tensor, "3"]:
        """(λ_W, λ_H, β) on the device of another tensor."""
        return like.new_tensor([self.lambda_w, self.lambda_h, self.beta])


def settings(
    lambda_w: Sequence[float], lambda_h: Sequence[float], beta: Sequence[float]
) -> list[Regularization]:
    """Many settings from three lists.

    Raises:
        TypeError: a number for a list.
        ValueError: lists of different lengths or empty ones, and what `Regularization` refuses.
    """
    for name, values in zip(HYPERPARAMETERS, (lambda_w, lambda_h, beta), strict=True):
        if not hasattr(values, "__len__"):
            raise TypeError(
                f"{name} must be a list, one value for each setting, got {values!r}; "
                f"pass [{values!r}], or use the verb for a single setting"
            )
    lengths = (len(lambda_w), len(lambda_h), len(beta))
    if not lengths[0] == lengths[1] == lengths[2] > 0:
        raise ValueError(f"lambda_w, lambda_h and beta must have one length, got {lengths}")
    return [Regularization(*own) for own in zip(lambda_w, lambda_h, beta, strict=True)]

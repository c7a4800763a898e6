"""Numbers that carry their derivatives: what every closed form of this room is written in."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Jet:
    """Values (one for every setting) and their derivatives in log λ_W, log λ_H and log β."""

    value: Float64[Tensor, "..."]
    slope: Float64[Tensor, "3 ..."]

    def __add__(self, other: "Jet | float") -> "Jet":
        """Sum."""
        if isinstance(other, Jet):
            return Jet(self.value + other.value, self.slope + other.slope)
        return Jet(self.value + other, self.slope)

    def __mul__(self, other: "Jet | float") -> "Jet":
        """Product."""
        if isinstance(other, Jet):
            slope = torch.addcmul(self.slope * other.value, other.slope, self.value[None])
            return Jet(self.value * other.value, slope)
        return Jet(self.value * other, self.slope * other)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Jet":
        """Opposite."""
        return self * -1.0

    def __sub__(self, other: "Jet | float") -> "Jet":
        """Difference."""
        return self + -other

    def __rsub__(self, other: float) -> "Jet":
        """Difference from a number."""
        return -self + other

    def __truediv__(self, other: "Jet") -> "Jet":
        """Quotient."""
        value = self.value / other.value
        return Jet(value, (self.slope - other.slope * value) / other.value)

    def of(self, value: Float64[Tensor, "..."], derivative: Float64[Tensor, "..."]) -> "Jet":
        """f(self) from the values and derivatives of f there."""
        return Jet(value, self.slope * derivative)

    def sqrt(self) -> "Jet":
        """Square root."""
        root = self.value.sqrt()
        return self.of(root, 0.5 / root)


def parameters(
    lambda_w: Float64[Tensor, "..."],
    lambda_h: Float64[Tensor, "..."],
    beta: Float64[Tensor, "..."],
) -> tuple[Jet, Jet, Jet]:
    """λ_W, λ_H and β themselves."""
    own = []
    for i, value in enumerate((lambda_w, lambda_h, beta)):
        slope = value.new_zeros(3, *value.shape)
        slope[i] = value
        own.append(Jet(value, slope))
    return own[0], own[1], own[2]

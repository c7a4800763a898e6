"""What a loss of logits has to say for the model with features kept near H0 to be solved.

    ℓ(z; t) = ψ(z) - <t, z>

with a convex potential ψ: its gradient (the outputs p), its curvature S = ∇²ψ and its conjugate
ψ*(p) = max_z <p, z> - ψ(z). Cross-entropy has ψ = log Σ exp, p = softmax(z), S = diag(p) - ppᵀ and
the negative entropy for ψ*; ψ = ½|z|² would be the squared loss, with S = I.
"""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Logits = Float[Tensor, "n K"]


@runtime_checkable
class Loss(Protocol):
    """Potential ψ of a loss ψ(z) - <t, z>, row by row.

    only_differences: whether a constant added to all logits changes nothing.
    """

    only_differences: bool

    def potential(self, logits: Logits) -> Float[Tensor, "n"]:
        """ψ(z)."""

    def outputs(self, logits: Logits) -> Logits:
        """p = ∇ψ(z)."""

    def curve(self, outputs: Logits, directions: Logits) -> Logits:
        """S v, with S = ∇²ψ(z) in terms of p."""

    def curvature(self, outputs: Logits) -> Float[Tensor, "n K K"]:
        """S as matrices."""

    def conjugate(self, outputs: Logits) -> Float[Tensor, "n"]:
        """ψ*(p)."""


class CrossEntropy:
    """ψ = log Σ exp."""

    only_differences = True

    def potential(self, logits: Logits) -> Float[Tensor, "n"]:
        """log Σ_k exp z_k."""
        return logits.logsumexp(1)

    def outputs(self, logits: Logits) -> Logits:
        """p = softmax(z)."""
        return logits.softmax(1)

    def curve(self, outputs: Logits, directions: Logits) -> Logits:
        """(diag(p) - ppᵀ)v."""
        mean = (outputs * directions).sum(1, keepdim=True)
        return outputs * (directions - mean)

    def curvature(self, outputs: Logits) -> Float[Tensor, "n K K"]:
        """diag(p) - ppᵀ."""
        matrix = -outputs[:, :, None] * outputs[:, None, :]
        matrix.diagonal(dim1=1, dim2=2).add_(outputs)
        return matrix

    def conjugate(self, outputs: Logits) -> Float[Tensor, "n"]:
        """Σ_k p_k log p_k on the simplex."""
        return torch.special.xlogy(outputs, outputs).sum(1)

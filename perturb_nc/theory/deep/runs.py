"""Model (2) for many runs at once, as a function of flat points: its value and gradient."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

Runs = Float64[Tensor, "R"]
Points = Float64[Tensor, "R P"]
_CACHE_BYTES = 2**22  # of points; measured best of 2^18..2^30 at width 64


@dataclass(frozen=True, eq=False)
class DeepProblem:
    """(2) for R runs, each a point of P numbers: H_1 (N×d_1), then W_l (d_{l+1}×d_l), all flat.

    The last `num_layers` of a run are active; what comes before passes H_1 on unchanged, with no
    activation, no penalty and no gradient. No checks: `DeepUFM` builds it.
    """

    targets: Float64[Tensor, "N K"]
    widths: tuple[int, ...]
    lambdas: Float64[Tensor, "R L"]
    lambda_h: Runs
    active: Bool[Tensor, "R L"]
    relu: bool
    anchors: Float64[Tensor, "N d"] | None
    beta: Runs

    def take(self, runs: Int64[Tensor, "r"]) -> "DeepProblem":
        """The same for some of the runs."""
        names = ("lambdas", "lambda_h", "active", "beta")
        return replace(self, **{name: getattr(self, name)[runs] for name in names})

    @cached_property
    def _mixed(self) -> bool:
        return not bool(self.active.all())

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of H_1, W_1, …, W_L."""
        samples, k = self.targets.shape
        out = [(b, a) for a, b in pairwise((*self.widths, k))]
        return [(samples, self.widths[0]), *out]

    def split(self, points: Points) -> list[Tensor]:
        """Views of H_1, W_1, …, W_L in points."""
        parts = points.split([a * b for a, b in self.shapes], dim=1)
        return [p.unflatten(1, shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def hidden(self, features: Float64[Tensor, "R N d"], weights: Sequence[Tensor]) -> list[Tensor]:
        """Inputs of W_1..W_L - H_1, σ(H_2), …, σ(H_L) - and the outputs."""
        values = [features]
        for layer, weight in enumerate(weights):
            h = values[-1] @ weight.mT
            if layer < len(weights) - 1:
                h = h.relu() if self.relu else h
                if self._mixed:
                    h = torch.where(self.active[:, layer, None, None], h, values[-1])
            values.append(h)
        return values

    def objective(self, features: Float64[Tensor, "R N d"], weights: Sequence[Tensor]) -> Runs:
        """f of every run; differentiable."""
        return self._objective(features, weights, self.hidden(features, weights)[-1])

    def _objective(self, features: Tensor, weights: Sequence[Tensor], outputs: Tensor) -> Runs:
        value = squares(outputs - self.targets) / len(self.targets)
        value = value + self.lambda_h * squares(features)
        if self.anchors is not None:
            value = value + self.beta * squares(features - self.anchors)
        for decay, weight in zip(self.lambdas.unbind(1), weights, strict=True):
            value = value + decay * squares(weight)
        return 0.5 * value

    @torch.no_grad()
    def value_and_gradient(self, points: Points) -> tuple[Runs, Points]:
        """f and ∇f of every run. The derivative of ReLU at 0 is taken as 0."""
        features, *weights = self.split(points)
        gradient, outputs = self._gradient(points)
        return self._objective(features, weights, outputs), gradient

    @torch.no_grad()
    def descend(self, points: Points, rate: float, steps: int) -> None:
        """Steps of gradient descent, in place.

        On the CPU a few runs at a time, so that they stay in its cache from step to step.
        """
        block = len(points)
        if points.device.type == "cpu":
            block = max(1, _CACHE_BYTES // (8 * points.shape[1]))
        for rows in torch.arange(len(points), device=points.device).split(block):
            part, own = self.take(rows), points[rows[0] : rows[-1] + 1]
            for _ in range(steps):
                own.sub_(part._gradient(own)[0], alpha=rate)

    def _gradient(self, points: Points) -> tuple[Points, Float64[Tensor, "R N K"]]:
        """∇f and the outputs.

        Written out, as it is the inner loop: gradients land in place, without autograd's graph.
        """
        features, *weights = self.split(points)
        gradient = torch.empty_like(points)
        features_part, *weight_parts = self.split(gradient)
        values = self.hidden(features, weights)
        back = (values[-1] - self.targets) / len(self.targets)
        for layer in range(len(weights) - 1, -1, -1):
            torch.bmm(back.mT, values[layer], out=weight_parts[layer])
            through = back @ weights[layer]
            if self._mixed and layer < len(weights) - 1:
                active = self.active[:, layer, None, None]
                weight_parts[layer].mul_(active)
                through = torch.where(active, through, back)
            weight_parts[layer].addcmul_(self.lambdas[:, layer, None, None], weights[layer])
            if self.relu and layer > 0:
                opened = values[layer] > 0
                if self._mixed:  # H_1 passed on unchanged has no activation
                    opened |= ~self.active[:, layer - 1, None, None]
                through = through * opened
            back = through
        torch.addcmul(back, self.lambda_h[:, None, None], features, out=features_part)
        if self.anchors is not None:
            features_part.addcmul_(self.beta[:, None, None], features - self.anchors)
        return gradient, values[-1]


def squares(x: Float64[Tensor, "R a b"]) -> Runs:
    """|x|² of every run."""
    return x.square().sum((1, 2))

"""What L-BFGS remembers of its last steps, for every run of a batch."""

from collections import deque

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from perturb_nc.theory.deep.runs import Points
from perturb_nc.validation import at_least


class History:
    """Pairs of steps s and gradient changes y; only those of positive curvature sᵀy count."""

    def __init__(self, memory: int) -> None:
        self.pairs: deque[tuple[Tensor, ...]] = deque(maxlen=at_least(memory, 1, "memory"))

    def add(self, moves: Points, changes: Points) -> None:
        """Append a pair; 1/sᵀy = 0 marks one that must not be used."""
        curvature = (moves * changes).sum(1)
        good = curvature > 1e-14 * moves.norm(dim=1) * changes.norm(dim=1)
        inverse = torch.where(good, 1 / torch.where(good, curvature, 1.0), 0.0)
        scale = torch.where(good, curvature / changes.square().sum(1), 0.0)
        self.pairs.append((moves, changes, inverse, scale))

    def forget(self, runs: Bool[Tensor, "R"]) -> None:
        """Drop the pairs of some runs."""
        if bool(runs.any()):
            for _, _, inverse, scale in self.pairs:
                inverse[runs], scale[runs] = 0.0, 0.0

    def take(self, kept: Int64[Tensor, "r"]) -> None:
        """Drop the runs that ended."""
        if self.pairs and len(kept) < len(self.pairs[0][2]):
            for index, pair in enumerate(self.pairs):
                self.pairs[index] = tuple(part[kept] for part in pair)

    def direction(self, gradient: Points) -> Points:
        """-H∇f by the two-loop recursion."""
        q, weights = gradient.clone(), []
        for s, y, inverse, _ in reversed(self.pairs):
            weights.append(inverse * (s * q).sum(1))
            q.addcmul_(weights[-1][:, None], y, value=-1)
        scale = torch.ones_like(gradient[:, 0])
        for _, _, _, own in self.pairs:  # the newest usable pair decides
            scale = torch.where(own > 0, own, scale)
        q.mul_(scale[:, None])
        for (s, y, inverse, _), weight in zip(self.pairs, reversed(weights), strict=True):
            q.addcmul_((weight - inverse * (y * q).sum(1))[:, None], s)
        return q.neg_()

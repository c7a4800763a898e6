"""How far the layers of the deep model are collapsed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from perturb_nc.metrics.duality import dnc3
from perturb_nc.metrics.frame import dnc2
from perturb_nc.metrics.within import nc1_trace
from perturb_nc.moments import Moments


@dataclass(frozen=True)
class LayerCollapse:
    """What enters one layer of the deep model, H_1 or σ(H_l), and the weight W_l that reads it.

    dnc1, dnc2 and dnc3 as in `perturb_nc.metrics` (dnc1 is nc1_trace); rank is that of the class
    means, weight_rank that of W_l, both counting singular values above 1e-3 of the largest.
    """

    dnc1: float
    dnc2: float
    dnc3: float
    rank: int
    weight_rank: int

    @classmethod
    def of(cls, statistics: Moments, weight: Tensor) -> "LayerCollapse":
        """From the statistics of what enters the layer."""
        return cls(
            dnc1=nc1_trace(statistics).item(),
            dnc2=dnc2(statistics).item(),
            dnc3=dnc3(statistics, weight).item(),
            rank=_rank(statistics.means),
            weight_rank=_rank(weight),
        )


def _rank(matrix: Tensor) -> int:
    # Absolute too: weights on the way to zero have rank 0, not the rank of what is left.
    return int(torch.linalg.matrix_rank(matrix, rtol=1e-3, atol=1e-6))

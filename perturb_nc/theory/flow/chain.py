"""A chain of layers trained together: every layer lies on one straight line (docs §4.8)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.clock import Progress
from perturb_nc.theory.flow.cascade import effective_complexity
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.solution import Solution
from perturb_nc.validation import ArrayLike, nonnegative


@dataclass(frozen=True, eq=False, repr=False)
class Chain(Summarised):
    """The layers H_l = a_l H_0 + b_l H_L of the optimum of a chain.

    Attributes:
        solution: the last layer, the optimum of (1) with β and λ_H of the whole chain, and its
            certificate, which is that of the chain.
        coefficients: (a_l, b_l) of the layers 1..L; (1 - τ_l, τ_l) without decay on the layers.
    """

    solution: Solution
    coefficients: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        """L."""
        return len(self.coefficients)

    @cached_property
    def ends(self) -> JointStatistics:
        """H_0 and H_L, with C = Σ_W0 Gᵀ.

        Every deviation goes by G = β(WᵀW + (λ_H + β)I)⁻¹.
        """
        problem, w = self.solution.problem, self.solution.weight
        anchor, reference = problem.beta, problem.statistics
        p = w.mT @ w + (problem.lambda_h + anchor) * torch.diag(w.new_ones(reference.dim))
        cross = anchor * torch.linalg.solve(p, reference.within).mT
        return JointStatistics(reference, self.solution.statistics, cross)

    def statistics(self, i: int) -> ClassStatistics:
        """Class statistics of layer i + 1, which is a mixture of the ends."""
        return self.ends.mixed(*self.coefficients[i])

    def features(self, reference_features: ArrayLike, labels: ArrayLike, i: int) -> torch.Tensor:
        """Features of layer i + 1 of given samples, (N, d); errors as `Solution.features`."""
        last = self.solution.features(reference_features, labels)
        a, b = self.coefficients[i]
        return a * torch.as_tensor(reference_features).to(last) + b * last


def chain(
    statistics: ClassStatistics,
    *,
    lambda_w: float,
    lambda_h: float,
    betas: Sequence[float],
    layer_decay: float = 0.0,
    tol: float = 1e-10,
    initial_weight: ArrayLike | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> Chain:
    """The optimum over W and all layers of a chain that is trained as a whole.

    min over W, H_1..H_L of the loss of (1) on H_L + λ_H/(2N) |H_L|² + Σ_l β_l/(2N) |H_l - H_{l-1}|²
    + λ/(2N) Σ_{l<L} |H_l|². Without the last sum it is (1) with 1/β = Σ 1/β_l, and its layers
    divide the segment from H_0 to H_L at τ_l = β Σ_{i<=l} 1/β_i. A layer between, given the next,
    minimises a quadratic with scalar coefficients, so that eliminating H_1, H_2, … leaves (1) with
    a β and a λ_H in any case. (`cascade` trains the same layers one after another, which is the
    flow and no straight line.)

    Args:
        statistics: class statistics of H_0.
        lambda_w, lambda_h: as in NearCollapseProblem; λ_H is of the last layer.
        betas: β_1..β_L, all > 0.
        layer_decay: λ, of every layer between.
        tol, initial_weight, time_limit, progress: as for `minimize`.

    Raises:
        ValueError: hyper-parameters out of range.

    Source: Wang, Gai & Zhang 2024 (progressive feedforward collapse); docs §4.8.
    """
    effective_complexity(betas)  # checks them before any work
    decay = nonnegative(layer_decay, "layer_decay")
    # What is left of the layers before H_l is ½(B + e)|H_l|² - B⟨H_l, H_0⟩.
    pull, excess = float(betas[0]), 0.0
    given_next = []  # H_l = a H_0 + b H_{l+1}
    for beta in betas[1:]:
        total = pull + excess + decay + beta
        given_next.append((pull / total, beta / total))
        pull, excess = beta * pull / total, beta * (decay + excess) / total
    coefficients = [(0.0, 1.0)]
    for a, b in reversed(given_next):
        a_next, b_next = coefficients[0]
        coefficients.insert(0, (a + b * a_next, b * b_next))
    problem = NearCollapseProblem(
        statistics, lambda_w=lambda_w, lambda_h=lambda_h + excess, beta=pull
    )
    solution = minimize(
        problem,
        tol=tol,
        initial_weight=initial_weight,
        time_limit=time_limit,
        progress=progress,
    )
    return Chain(solution, tuple(coefficients))

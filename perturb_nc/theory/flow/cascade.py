"""Depth as flow time: chains of optima, and how their complexities add (DESIGN §4.6)."""

from collections.abc import Sequence

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.minimize import Solution, minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.validation import positive


def effective_complexity(betas: Sequence[float]) -> float:
    """Σ 1/β_l: a chain of layers with anchors β_l acts as one anchor of this complexity 1/β.

    min over H_1..H_{L-1} of Σ β_l |H_l - H_{l-1}|² is |H_L - H_0|² / Σ 1/β_l. It is also the flow
    time at which a `cascade` with large β_l ends.

    Raises:
        ValueError: no β, or one that is not > 0.
    """
    if not betas:
        raise ValueError("betas must hold at least one anchor, got none")
    return sum(1 / positive(beta, "betas") for beta in betas)


def cascade(
    statistics: ClassStatistics, *, lambda_w: float, lambda_h: float, betas: Sequence[float]
) -> list[Solution]:
    """Optima of (1) layer after layer, each the reference features of the next.

    One optimum is one implicit Euler step of size 1/β of the central-path flow, so that at fixed
    Σ 1/β_l the cascade converges to the flow at that time as the β_l grow, with an error O(1/β).

    Args:
        statistics: class statistics of the first H0.
        lambda_w, lambda_h: as in NearCollapseProblem, for every layer.
        betas: β_1..β_L, all > 0.

    Raises:
        ValueError: hyper-parameters out of range.
    """
    effective_complexity(betas)  # checks them before any work
    solutions: list[Solution] = []
    for beta in betas:
        problem = NearCollapseProblem(statistics, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta)
        # The flow is continuous: start from the previous weight, not from W*(H0) anew.
        previous = solutions[-1].weight if solutions else None
        solutions.append(minimize(problem, initial_weight=previous))
        statistics = solutions[-1].statistics
    return solutions

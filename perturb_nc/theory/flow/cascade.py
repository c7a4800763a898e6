"""Depth as flow time: chains of optima, and how their complexities add (docs §4.6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status
from perturb_nc.validation import positive


def effective_complexity(betas: Sequence[float]) -> float:
    """Σ 1/β_l: a chain of layers with anchors β_l acts as one anchor of this complexity 1/β.

    min over H_1..H_{L-1} of Σ β_l |H_l - H_{l-1}|² is |H_L - H_0|² / Σ 1/β_l. It is also the flow
    time at which a `cascade` with large β_l ends.

    Raises:
        ValueError: no β, or one that is not > 0.
    """
    if len(betas) == 0:
        raise ValueError("betas must hold at least one anchor, got none")
    return sum(1 / positive(beta, "betas") for beta in betas)


@dataclass(frozen=True, eq=False, repr=False)
class Cascade(Summarised):
    """Optima of (1) layer after layer, as a sequence of solutions.

    It approaches the central-path flow (every β_l large at fixed Σ 1/β_l) as long as each optimum
    is the one near the last. Where r < 1 there is no other: `is_unique`. For balanced classes that
    is sure where λ_W(λ_H + β_l) > 1.

    Attributes:
        solutions: of the layers, up to the first that is not done.
        betas: β_1..β_L that were asked for.
        status: CONVERGED, or how the last of the solutions ended.
    """

    solutions: tuple[Solution, ...]
    betas: tuple[float, ...]
    status: Status

    def _summary(self) -> dict[str, object]:
        return {
            "layers": len(self),
            "complexity": self.complexity if len(self) else 0.0,
            "nc1_trace": [s.metrics.nc1_trace for s in self.solutions],
            "is_unique": self.is_unique,
            "status": self.status,
        }

    def __len__(self) -> int:
        """How many layers are solved."""
        return len(self.solutions)

    def __getitem__(self, i: int) -> Solution:
        """The solution of layer i."""
        return self.solutions[i]

    @property
    def complexity(self) -> float:
        """Σ 1/β_l of the layers solved, the flow time that they reach."""
        return effective_complexity(self.betas[: len(self)])

    @property
    def is_unique(self) -> bool:
        """Whether every optimum is certified to be the only one."""
        return all(s.certificate.spectral_ratio < 1 for s in self.solutions)


def cascade(
    statistics: ClassStatistics,
    *,
    lambda_w: float,
    lambda_h: float,
    betas: Sequence[float],
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> Cascade:
    """Optima of (1) layer after layer, each the reference features of the next.

    One optimum is one implicit Euler step of size 1/β of the central-path flow, so that at fixed
    Σ 1/β_l the cascade converges to the flow at that time as all β_l grow, with an error O(1/β).
    It ends at the first layer whose optimum is not found, with that status.

    Args:
        statistics: class statistics of the first H0.
        lambda_w, lambda_h: as in NearCollapseProblem, for every layer.
        betas: β_1..β_L, all > 0.
        time_limit: seconds after which the layers solved are returned, and the one under way as far
            as it came, with TIME_LIMIT.
        progress: called as progress(layers, gradient norm of the last) after every layer.

    Raises:
        ValueError: hyper-parameters or time_limit out of range.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> found = pnc.cascade(statistics, lambda_w=0.05, lambda_h=0.0, betas=[20.0] * 2)
        >>> path = pnc.central_path_flow(statistics, lambda_w=0.05, lambda_h=0.0, times=[0.05, 0.1])
        >>> found.complexity, found.status.name
        (0.1, 'CONVERGED')
        >>> [round(solution.metrics.nc1_trace, 3) for solution in found]
        [0.139, 0.131]
        >>> [round(metrics.nc1_trace, 3) for metrics in path.metrics]
        [0.138, 0.131]

    See Also:
        central_path_flow: its limit. minimize: one of its layers. plot_path: its picture.

    Source: docs §4.6.
    """
    effective_complexity(betas)  # checks them before any work
    clock = Clock.of(time_limit, progress)
    solutions: list[Solution] = []
    for beta in betas:
        problem = NearCollapseProblem(statistics, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta)
        # The flow is continuous: start from the previous weight, not from W*(H0) anew.
        previous = solutions[-1].weight if solutions else None
        found = minimize(problem, initial_weight=previous, time_limit=clock.left())
        solutions.append(found)
        clock.report(len(solutions), found.gradient_norm)
        if not solutions[-1].status.is_done:
            break
        statistics = solutions[-1].statistics
    return Cascade(tuple(solutions), tuple(betas), solutions[-1].status)

"""Path and chain with cross-entropy, on the samples of the first layer of a stage (λ_H = 0)."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import scipy  # its parts load, slowly, when they are first used
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.metrics import table as metric_functions
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.models import CrossEntropyModel
from perturb_nc.study.rivals import Stage
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.cross_entropy.flow import cross_entropy_flow
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.status import Status
from perturb_nc.validation import ArrayLike

_FIRST, _LAST = 1e-2, 1e6  # places on the path, in units of |H0|²/N; straight between them,
_STRETCH, _AHEAD = 1.25, 8  # a quarter apart, so many found in one go
_RTOL = 1e-3  # of the flow


def placed_on_samples(stage: Stage, lambda_w: float, clock: Clock) -> dict[str, ClassStatistics]:
    """Where the path has each later layer's value of the placing metric, as far as it gets there.

    Between places a quarter apart in time features are taken to move straight.
    """
    assert stage.start is not None
    problem = stage.start.problem(lambda_w=lambda_w, lambda_h=0.0, beta=1.0)
    here, value = problem.features, stage.value(stage.names[0])
    labels, metric = problem.labels, getattr(metric_functions, stage.metric)
    unit = here.square().sum(1).mean().item()
    wanted = [name for name in stage.names[1:] if stage.value(name) < value]
    wanted.sort(key=stage.value, reverse=True)  # the metric falls along the path
    found: dict[str, ClassStatistics] = {}
    time, following = 0.0, _FIRST * unit
    while wanted and following < _LAST * unit and not clock.expired():
        problem = replace(problem, features=here)
        times = [following * _STRETCH**i for i in range(_AHEAD)]
        path = cross_entropy_flow(problem, times=[t - time for t in times], rtol=_RTOL)
        for i, after in enumerate(path.features):
            reached = metric(path.statistics(i)).item()
            while wanted and stage.value(wanted[0]) >= reached:
                name = wanted.pop(0)
                found[name] = _between(here, after, labels, metric, stage.value(name))
            here = after
        if path.status is not Status.FINISHED:
            break
        time, following = times[-1], times[-1] * _STRETCH
    return found


def _between(
    here: Tensor, after: Tensor, labels: Tensor, metric: Any, value: float
) -> ClassStatistics:
    """Where a metric has a value on the way from one place to the next."""

    def at(share: float) -> ClassStatistics:
        return ClassStatistics.from_features(here + share * (after - here), labels)

    def excess(share: float) -> float:
        return float(metric(at(share))) - value

    if excess(0.0) <= 0:
        return at(0.0)
    share = scipy.optimize.brentq(excess, 0.0, 1.0, xtol=1e-4) if excess(1.0) < 0 else 1.0
    return at(share)


@dataclass(frozen=True, eq=False)
class SampleChain:
    """The straight line from samples to the predicted optimum, in equal steps."""

    problem: CrossEntropyProblem
    solution: Any
    length: int

    @cached_property
    def _way(self) -> Float64[Tensor, "N d"]:
        first, labels = self.problem.features, self.problem.labels
        way: Float64[Tensor, "N d"] = self.solution.features(first, labels) - first
        return way

    @cached_property
    def ends(self) -> JointStatistics:
        """First and last layer with what binds them."""
        labels = self.problem.labels
        layers = self.problem.features, self.problem.features + self._way
        first, last = (ClassStatistics.from_features(x, labels) for x in layers)
        a, b = (x - s.means[labels] for x, s in zip(layers, (first, last), strict=True))
        return JointStatistics(first, last, a.mT @ b / len(labels))

    def statistics(self, i: int) -> ClassStatistics:
        """Class statistics of layer i + 1."""
        features = self.problem.features + (i + 1) / self.length * self._way
        return ClassStatistics.from_features(features, self.problem.labels)


def sample_chain(
    start: CrossEntropyModel,
    *,
    lambda_w: float,
    beta: float,
    length: int,
    tol: float,
    initial_weight: ArrayLike | None,
) -> SampleChain:
    """As `perturb_nc.theory.flow.chain.chain`, with β of the whole chain and λ_H = 0."""
    problem = start.problem(lambda_w=lambda_w, lambda_h=0.0, beta=beta)
    solve: Any = minimize
    solution = solve(problem, tol=tol, initial_weight=initial_weight)
    return SampleChain(problem, solution, length)

"""Integrators of the central-path flow: adaptive exponential steps, and scipy's as judges."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.flow.exponential import METHODS, magnus_step, step_error
from perturb_nc.theory.flow.space import FlowSpace
from perturb_nc.theory.flow.state import FlowModel, FlowState, Rows
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least

OnStep = Callable[[float, ClassStatistics], None]
Event = Callable[[FlowState, Rows], float]
"""A function of a state and its W* that is zero where the flow should stop."""


@dataclass(frozen=True)
class FlowCost:
    """What an integration took.

    Attributes:
        steps, rejected: steps taken, and tried in vain.
        evaluations: of W*.
        dimension: m, of the subspace that held the weights (d where it was all of space).
    """

    steps: int
    rejected: int
    evaluations: int
    dimension: int

    def __add__(self, other: "FlowCost") -> "FlowCost":
        return FlowCost(
            self.steps + other.steps,
            self.rejected + other.rejected,
            self.evaluations + other.evaluations,
            max(self.dimension, other.dimension),
        )


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States at the times reached."""

    times: list[float]
    states: list[FlowState]
    status: Status
    cost: FlowCost


@dataclass(frozen=True)
class Exponential:
    """Exponential Magnus steps with an embedded pair (see `perturb_nc.theory.flow.exponential`).

    Attributes:
        order: 2 (midpoint, 2 weights a step) or 4 (Munthe-Kaas, 4 weights a step).
        step: a fixed step size instead of error control.
        max_steps: accepted and rejected steps at most.
    """

    order: int = 4
    step: float | None = None
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        if self.order not in METHODS:
            raise ValueError(f"order must be one of {tuple(METHODS)}, got {self.order}")
        at_least(self.max_steps, 1, "max_steps")

    def integrate(
        self,
        space: FlowSpace,
        state: FlowState,
        start: float,
        times: Sequence[float],
        *,
        rtol: float,
        atol: float,
        events: Sequence[Event] = (),
        on_step: OnStep | None = None,
    ) -> Trajectory:
        """States at increasing times >= start, of a state at `start`; the space may grow."""
        negligible = 1e-12 if self.step else max(1e-3 * rtol, 1e-12)
        weight = _first_weight(space, state)
        time, steps, rejected, reached = start, 0, 0, []
        step = self.step or 0.1 / float(weight.square().sum((-2, -1)).max() + 1e-12)
        signs = [event(state, weight) for event in events]
        status = Status.FINISHED
        for target in times:
            while time < target and status is Status.FINISHED:
                if steps + rejected >= self.max_steps:
                    status = Status.MAX_STEPS
                    break
                size = self._size(step, target - time)
                new, after, embedded = magnus_step(space.model, state, weight, size, self.order)
                if self.step is None:
                    error = step_error(space.model, state, new, embedded, rtol, atol)
                    accepted, step = self._control(error, size, step, first=not steps)
                    if not accepted:
                        rejected += 1
                        if step < 1e-15 * times[-1]:
                            status = Status.STEP_TOO_SMALL
                        continue
                neglected, after = space.hold(new, after, negligible)
                before = space.padded(state)
                if neglected > 100 * negligible:
                    state, weight, rejected = before, space.model.weight(before), rejected + 1
                    continue
                state, weight, steps = space.padded(new), after, steps + 1
                values = [event(state, weight) for event in events]
                crossed = [
                    e for e, v, sign in zip(events, values, signs, strict=True) if v * sign <= 0
                ]
                if crossed:
                    size, state = self._locate(space.model, before, size, crossed)
                    status = Status.EVENT
                time = target if size == target - time else time + size
                if on_step is not None:
                    on_step(time, space.statistics_at(state))
            reached.append((time, state))
            if status is not Status.FINISHED:
                break
        evaluations = self.order * (steps + rejected) + 1
        cost = FlowCost(steps, rejected, evaluations, space.basis.shape[-1])
        return Trajectory(
            [t for t, _ in reached], [space.padded(s) for _, s in reached], status, cost
        )

    def _size(self, step: float, left: float) -> float:
        """The next step, so that equal steps fill the time that is left."""
        return min(step, left) if self.step else left / math.ceil(left / step)

    def _control(
        self, error: float, size: float, step: float, *, first: bool
    ) -> tuple[bool, float]:
        """Whether a step of this error (over tolerance) is accepted, and the next step size."""
        if math.isnan(error):  # overflowed
            return False, 0.2 * size
        # The first step is a cautious guess.
        most = 50.0 if first else 5.0
        factor = min(most, max(0.2, 0.9 * (error + 1e-10) ** (-1 / self.order)))
        following = size * factor
        if error <= 1 and size < step:
            # A step cut short to land on a time says little about longer ones.
            following = max(following, step)
        return error <= 1, following

    def _locate(
        self,
        model: FlowModel,
        state: FlowState,
        size: float,
        events: Sequence[Event],
    ) -> tuple[float, FlowState]:
        """The step (<= size) after which the first of the events is zero, and the state there."""
        weight = model.weight(state)

        def after(part: float) -> FlowState:
            return magnus_step(model, state, weight, part, self.order)[0]

        def distance(part: float, event: Event) -> float:
            new, its_weight, _ = magnus_step(model, state, weight, part, self.order)
            return event(new, its_weight)

        root = scipy.optimize.brentq
        found = min(
            float(root(distance, 0.0, size, args=(event,), xtol=1e-13 * size)) for event in events
        )
        return found, after(found)


def _first_weight(space: FlowSpace, state: FlowState) -> Rows:
    """W* where an integration begins; ValueError if float64 cannot hold it."""
    weight = space.model.weight(state)
    if not weight.isfinite().all():
        raise ValueError(
            "statistics are too badly scaled for float64 (features of mean square "
            f"{space.statistics.second_moment.trace().item():.1e}, lambda_w = "
            f"{float(space.model.lambda_w.min()):g}); rescale the features, subtract an offset"
        )
    return weight


@dataclass(frozen=True)
class Scipy:
    """scipy's DOP853 or Radau on (means, Ψ), all d dimensions of them: a judge, for small d."""

    name: Literal["DOP853", "Radau"]

    def integrate(
        self,
        space: FlowSpace,
        state: FlowState,
        start: float,
        times: Sequence[float],
        *,
        rtol: float,
        atol: float,
        events: Sequence[Event] = (),
        on_step: OnStep | None = None,
    ) -> Trajectory:
        """As `Exponential.integrate`; without batches, events and on_step."""
        model = space.model
        if events or on_step is not None or model.lambda_w.numel() > 1:
            raise ValueError(
                f"method {self.name!r} takes no batch, until or on_step; use 'exponential'"
            )
        sizes = [state.means.numel(), state.propagator.numel()]

        def unpack(flat: NDArray[np.float64]) -> FlowState:
            means, propagator = torch.from_numpy(flat).to(state.means).split(sizes)
            return FlowState(
                means.view_as(state.means), propagator.view_as(state.propagator), state.outer
            )

        def rate(_: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
            now = unpack(flat)
            return pack(*model.rate(now, model.weight(now)))

        def pack(means: Tensor, propagator: Tensor) -> NDArray[np.float64]:
            return torch.cat([means.flatten(), propagator.flatten()]).cpu().numpy()

        result = scipy.integrate.solve_ivp(
            rate,
            (start, max(times[-1], start)),
            pack(state.means, state.propagator),
            self.name,
            times,
            rtol=rtol,
            atol=atol,
        )
        status = Status.FINISHED if result.status == 0 else Status.STEP_TOO_SMALL
        states = [unpack(np.ascontiguousarray(column)) for column in result.y.T]
        cost = FlowCost(len(result.t), 0, result.nfev, space.basis.shape[-1])
        return Trajectory(list(result.t), states, status, cost)

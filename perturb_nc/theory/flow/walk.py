"""Steps from time to time along a central-path flow: sizes, tolerances, events, ends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import scipy  # its parts load, slowly, when they are first used
import torch

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.flow.exponential import magnus_step
from perturb_nc.theory.flow.rosenbrock import ORDER, STAGES, rosenbrock_step
from perturb_nc.theory.flow.space import FlowSpace
from perturb_nc.theory.flow.state import NOTHING, FlowState, Rows, step_error
from perturb_nc.theory.status import Status

OnStep = Callable[[float, ClassStatistics], None]
MOST_ENTRIES = 1500**2  # of the systems that Rosenbrock steps solve
Event = Callable[[FlowSpace, FlowState, Rows], float]
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
    """States at the times reached, in the last space."""

    space: FlowSpace
    times: list[float]
    states: list[FlowState]
    status: Status
    cost: FlowCost


@dataclass(frozen=True)
class Control:
    """Sizes of steps.

    Attributes:
        step: of every step, or None for error control.
        order: of exponential steps.
        max_steps: accepted and rejected steps at most.
        rtol, atol: of the local error.
    """

    step: float | None
    order: int
    max_steps: int
    rtol: float
    atol: float

    def next_size(self, error: float, size: float, step: float, order: int, most: float) -> float:
        """The size to go on with after a step of `size` with an error (over tolerance)."""
        if math.isnan(error):  # overflowed
            return 0.2 * size
        following = size * min(most, max(0.2, 0.9 * (error + 1e-10) ** (-1 / order)))
        if error <= 1 and size < step:
            # A step cut short to land on a time says little about longer ones.
            following = max(following, step)
        return following


class Walk:
    """Where an integration is, and what it took to get there.

    Exponential steps keep the structure of the flow at any size, but where W drifts over a time of
    1/|W|² they grow no longer. Where too many of them are left, Rosenbrock steps take over.
    """

    def __init__(
        self,
        control: Control,
        space: FlowSpace,
        state: FlowState,
        start: float,
        end: float,
        events: Sequence[Event],
        on_step: OnStep | None,
        clock: Clock,
    ) -> None:
        self.control, self.space, self.state, self.clock = control, space, state, clock
        self.time, self.end = start, end
        self.events, self.on_step = events, on_step
        self.weight = _first_weight(space, state)
        self.step = control.step or 0.1 / float(self.weight.square().sum((-2, -1)).max() + 1e-12)
        self.signs = [event(space, state, self.weight) for event in events]
        self.steps, self.rejected, self.evaluations = 0, 0, 1
        self.settled = self.rosenbrock = False

    def through(self, times: Sequence[float]) -> Trajectory:
        """States at increasing times, or up to where the walk ends."""
        reached, status = [], Status.FINISHED
        for i, target in enumerate(times):
            status = self._to(target, landings=len(times) - i)
            reached.append((self.time, self.state))
            if status is not Status.FINISHED:
                break
        cost = FlowCost(self.steps, self.rejected, self.evaluations, self.space.basis.shape[-1])
        states = [self.space.padded(state) for _, state in reached]
        return Trajectory(self.space, [time for time, _ in reached], states, status, cost)

    def _to(self, target: float, landings: int) -> Status:
        while self.time < target:
            if self.steps + self.rejected >= self.control.max_steps:
                return Status.MAX_STEPS
            if self.clock.expired():
                return Status.TIME_LIMIT
            self.rosenbrock = self._fits() and (self.rosenbrock or self._pays(landings))
            status = self._advance(target)
            if status is not None:
                return status
        return Status.FINISHED

    def _fits(self) -> bool:
        """Whether the systems of Rosenbrock steps are of moderate size."""
        *batch, k, m = self.weight.shape
        return math.prod(batch) * (k * m) ** 2 <= MOST_ENTRIES

    def _pays(self, landings: int) -> bool:
        """Whether Rosenbrock steps are due: at the present size too many steps are left.

        Where their systems are not small, about as many must have been taken too: an event may end
        the walk long before its last time.
        """
        unknowns = self.weight.shape[-2] * self.weight.shape[-1]
        price = max(1.0, (unknowns / 200) ** 2)  # of a step, in exponential ones
        many = 30 * price + landings
        due = self.end - self.time > many * self.step and self.steps >= 30 * (price - 1)
        return self.control.step is None and self.settled and due

    def _advance(self, target: float) -> Status | None:
        """Try one step; a status if the walk ends with it."""
        control, left = self.control, target - self.time
        size = min(self.step, left) if control.step else left / math.ceil(left / self.step)
        new, after, error = self._stepped(self.state, self.weight, size)
        if control.step is None:
            order, most = (ORDER if self.rosenbrock else control.order), 5.0 if self.steps else 50.0
            following = control.next_size(error, size, self.step, order, most)
            self.settled, self.step = following < 2 * size, following
            if not error <= 1:
                self.rejected += 1
                # Small changes of time are lost beside the time reached.
                lost = self.time + 1e-3 * following == self.time or following < 1e-30 * self.end
                return Status.STEP_TOO_SMALL if lost else None
        negligible = 1e-12 if control.step else max(1e-3 * control.rtol, 1e-12)
        neglected = self.space.neglected(new, after)
        if neglected > negligible:
            self.space = self.space.grown()
        before = self.space.padded(self.state)
        if neglected > 100 * negligible:
            self.state, self.weight = before, self.space.model.weight(before)
            self.rejected += 1
            return None
        self.state, self.steps = self.space.padded(new), self.steps + 1
        self.weight = self.space.model.weight(self.state) if neglected > negligible else after
        return self._arrived(before, size, target)

    def _arrived(self, before: FlowState, size: float, target: float) -> Status | None:
        """What a step that was accepted led to."""
        values = [event(self.space, self.state, self.weight) for event in self.events]
        pairs = zip(self.events, values, self.signs, strict=True)
        crossed = [event for event, value, sign in pairs if value * sign <= 0]
        status = None
        if crossed:
            size, self.state = self._locate(before, size, crossed)
            status = Status.EVENT
        self.time = target if size == target - self.time else self.time + size
        if self.on_step is not None:
            with torch.inference_mode(False):  # ordinary tensors for whoever keeps them
                self.on_step(self.time, self.space.statistics_at(self.state))
        self.clock.report(self.steps, self.time)
        if status is None and self.time < target and self._decayed():
            status = Status.DECAYED
        return status

    def _decayed(self) -> bool:
        """Whether features are so small, relative to H0, that their squares are about to vanish."""
        model, state = self.space.model, self.state
        square = model.square(state.means) + model.spread(state.propagator, state.outer)
        return bool((square < (10 * NOTHING * model.start).square().sum(0)).all())

    def _stepped(
        self, state: FlowState, weight: Rows, size: float
    ) -> tuple[FlowState, Rows, float]:
        """The state after a step, its W*, and its error over the tolerance."""
        model, control = self.space.model, self.control
        if self.rosenbrock:
            self.evaluations += STAGES
            return rosenbrock_step(model, state, weight, size, control.rtol, control.atol)
        self.evaluations += control.order
        new, after, other = magnus_step(model, state, weight, size, control.order)
        gap = new.means - other.means, new.propagator - other.propagator
        return new, after, step_error(model, state, new.means, gap, control.rtol, control.atol)

    def _locate(
        self, state: FlowState, size: float, events: Sequence[Event]
    ) -> tuple[float, FlowState]:
        """The step (<= size) after which the first of the events is zero, and the state there."""
        weight = self.space.model.weight(state)

        def distance(part: float, event: Event) -> float:
            if part == 0:
                return event(self.space, state, weight)
            new, its_weight, _ = self._stepped(state, weight, part)
            return event(self.space, new, its_weight)

        root = scipy.optimize.brentq
        found = min(
            float(root(distance, 0.0, size, args=(event,), xtol=1e-13 * size)) for event in events
        )
        return found, self._stepped(state, weight, found)[0]


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

"""Integrators of the central-path flow: adaptive exponential steps, and scipy's as judges."""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass
from enum import Enum
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from perturb_nc.theory.exponential import ORDERS, magnus_step, step_error
from perturb_nc.theory.flow_state import FlowModel, FlowState, Rows, WeightSolver
from perturb_nc.validation import at_least

OnStep = Callable[[float, FlowState], None]
Event = Callable[[FlowState, Rows], float]
"""A function of a state and its W* that is zero where the flow should stop."""


class FlowStatus(Enum):
    """How an integration ended; the value says what to do."""

    FINISHED = "reached the last time"
    EVENT = "stopped where `until` was reached"
    MAX_STEPS = "stopped at max_steps; raise it, or loosen rtol"
    STEP_TOO_SMALL = "the step size underflowed; rescale the features, or loosen rtol"


@dataclass(frozen=True)
class FlowCost:
    """What an integration took: steps, rejected steps, evaluations of W*, d×d factorisations."""

    steps: int
    rejected: int
    evaluations: int
    factorisations: int

    def __add__(self, other: "FlowCost") -> "FlowCost":
        return FlowCost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States at the times reached."""

    times: list[float]
    states: list[FlowState]
    status: FlowStatus
    cost: FlowCost


@dataclass(frozen=True)
class Exponential:
    """Exponential Magnus steps with an embedded pair (see `perturb_nc.theory.exponential`).

    Attributes:
        order: 2 (midpoint, 2 weights a step) or 4 (Casas & Iserles, 6 weights a step).
        step: a fixed step size instead of error control.
        max_steps: accepted and rejected steps at most.
    """

    order: int = 4
    step: float | None = None
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"order must be one of {ORDERS}, got {self.order}")
        at_least(self.max_steps, 1, "max_steps")

    def integrate(
        self,
        model: FlowModel,
        state: FlowState,
        start: float,
        times: Sequence[float],
        *,
        rtol: float,
        atol: float,
        events: Sequence[Event] = (),
        on_step: OnStep | None = None,
    ) -> Trajectory:
        """States at increasing times >= start, of a state at `start`."""
        # W* a thousand times more accurate than the step is asked to be.
        solver = WeightSolver(model, 1e-13 if self.step else max(1e-3 * rtol, 1e-13))
        weight = solver.at(state)
        time, steps, rejected, reached = start, 0, 0, []
        step = self.step or 0.1 / float(weight.square().sum((-2, -1)).max() + 1e-12)
        signs = [event(state, weight) for event in events]
        status = FlowStatus.FINISHED
        for target in times:
            while time < target and status is FlowStatus.FINISHED:
                if steps + rejected >= self.max_steps:
                    status = FlowStatus.MAX_STEPS
                    break
                size = min(step, target - time)
                new, embedded, guess = magnus_step(solver, model, state, weight, size, self.order)
                if self.step is None:
                    error = step_error(model, state, new, embedded, rtol, atol)
                    accepted, step = self._control(error, size, step)
                    if not accepted:
                        rejected += 1
                        if step < 1e-15 * times[-1]:
                            status = FlowStatus.STEP_TOO_SMALL
                        continue
                before, own = state, weight
                state, steps = new.advance(model, state), steps + 1
                weight = solver.after(new, before, guess)
                values = [event(state, weight) for event in events]
                crossed = [i for i, v in enumerate(values) if v * signs[i] <= 0]
                if crossed:
                    size, state = self._locate(
                        solver, model, before, own, size, [events[i] for i in crossed]
                    )
                    status = FlowStatus.EVENT
                time = target if size == target - time else time + size
                if on_step is not None:
                    on_step(time, state)
            reached.append((time, state))
            if status is not FlowStatus.FINISHED:
                break
        per_step = {2: 1, 4: 5}[self.order]
        evaluations = per_step * (steps + rejected) + steps + 1
        cost = FlowCost(steps, rejected, evaluations, solver.factorisations)
        return Trajectory([t for t, _ in reached], [s for _, s in reached], status, cost)

    def _control(self, error: float, size: float, step: float) -> tuple[bool, float]:
        """Whether a step of this error (over tolerance) is accepted, and the next step size."""
        if math.isnan(error):  # overflowed
            return False, 0.2 * size
        factor = min(5.0, max(0.2, 0.9 * (error + 1e-10) ** (-1 / self.order)))
        following = size * factor
        if error <= 1 and size < step:
            # A step cut short to land on a time says little about longer ones.
            following = max(following, step)
        return error <= 1, following

    def _locate(
        self,
        solver: WeightSolver,
        model: FlowModel,
        state: FlowState,
        weight: Rows,
        size: float,
        events: Sequence[Event],
    ) -> tuple[float, FlowState]:
        """The step (<= size) after which the first of the events is zero, and the state there."""

        def after(part: float) -> tuple[FlowState, Rows]:
            if part == 0:
                return state, weight
            new, _, guess = magnus_step(solver, model, state, weight, part, self.order)
            return new.advance(model, state), solver.after(new, state, guess)

        def root(event: Event) -> float:
            return float(brentq(lambda part: event(*after(part)), 0.0, size, xtol=1e-13 * size))

        found = min(root(event) for event in events)
        return found, after(found)[0]


@dataclass(frozen=True)
class Scipy:
    """scipy's DOP853 or Radau on (means, Ψ): a judge of the exponential method, for small d."""

    name: Literal["DOP853", "Radau"]

    def integrate(
        self,
        model: FlowModel,
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
        if events or on_step is not None or model.lambda_w.numel() > 1:
            raise ValueError(
                f"method {self.name!r} takes no batch, until or on_step; use 'exponential'"
            )
        (k, d), batch = state.means.shape[-2:], state.means.shape[:-2]
        solver = WeightSolver(model, 1e-13)

        def unpack(flat: NDArray[np.float64]) -> FlowState:
            tensor = torch.from_numpy(flat).to(state.means)
            means, psi = (part.reshape(*batch, -1, d) for part in tensor.split([k * d, d * d]))
            cross = psi @ model.reference_within
            return FlowState(means, psi, cross @ psi.mT, None if state.cross is None else cross)

        def rate(_: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
            now = unpack(flat)
            w, c = solver.at(now), model.lambda_h + model.beta
            errors = now.means @ w.mT - torch.eye(k).to(w)
            means = model.beta * model.reference_means - errors @ w - c * now.means
            psi = -w.mT @ (w @ now.propagator) - c * now.propagator
            psi = psi + model.beta * torch.eye(d).to(w)
            return torch.cat([means.flatten(), psi.flatten()]).cpu().numpy()

        first = torch.cat([state.means.flatten(), state.propagator.flatten()]).cpu().numpy()
        result = solve_ivp(
            rate, (start, max(times[-1], start)), first, self.name, times, rtol=rtol, atol=atol
        )
        status = FlowStatus.FINISHED if result.status == 0 else FlowStatus.STEP_TOO_SMALL
        states = [unpack(np.ascontiguousarray(column)) for column in result.y.T]
        cost = FlowCost(len(result.t), 0, result.nfev, solver.factorisations)
        return Trajectory(list(result.t), states, status, cost)

"""Methods for the central-path flow: the package's own, and scipy's as judges."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.theory.clock import Clock
from perturb_nc.theory.flow import exponential
from perturb_nc.theory.flow.space import FlowSpace
from perturb_nc.theory.flow.state import FlowState
from perturb_nc.theory.flow.walk import Control, Event, FlowCost, OnStep, Trajectory, Walk
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, positive


@dataclass(frozen=True, eq=False)
class Leg:
    """A stretch of the flow: what every method integrates.

    Attributes:
        space: where it is solved; it may grow.
        state: at time `start`.
        times: increasing and >= start, of the states asked for.
        rtol, atol: tolerances of means and deviations, as `step_error` measures them.
        events, on_step, clock: what ends it early, and who is told.
    """

    space: FlowSpace
    state: FlowState
    start: float
    times: Sequence[float]
    rtol: float
    atol: float
    events: Sequence[Event] = ()
    on_step: OnStep | None = None
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class Exponential:
    """Exponential Magnus steps, embedded pairs, and Rosenbrock steps where those stop growing.

    See `perturb_nc.theory.flow.exponential` and `perturb_nc.theory.flow.rosenbrock`.

    Attributes:
        order: 2 (midpoint, 2 weights a step) or 4 (Munthe-Kaas, 4 weights a step).
        step: a fixed step size instead of error control, for exponential steps alone.
        max_steps: accepted and rejected steps at most.
    """

    order: int = 4
    step: float | None = None
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        if self.order not in exponential.METHODS:
            raise ValueError(f"order must be one of {tuple(exponential.METHODS)}, got {self.order}")
        if self.step is not None:
            positive(self.step, "step")
        at_least(self.max_steps, 1, "max_steps")

    @torch.inference_mode()  # many small operations, of which autograd's books are a quarter
    def integrate(self, leg: Leg) -> Trajectory:
        """States at the times of a leg."""
        control = Control(self.step, self.order, self.max_steps, leg.rtol, leg.atol)
        watch = leg.events, leg.on_step, leg.clock
        walk = Walk(control, leg.space, leg.state, leg.start, leg.times[-1], *watch)
        return walk.through(leg.times)


@dataclass(frozen=True)
class Scipy:
    """scipy's DOP853 or Radau on (means, Ψ), all d dimensions of them: a judge, for small d."""

    name: Literal["DOP853", "Radau"]

    def integrate(self, leg: Leg) -> Trajectory:
        """As `Exponential.integrate`; without batches, events, on_step and a clock."""
        space, state, model = leg.space, leg.state, leg.space.model
        timed = leg.clock.limit < math.inf or leg.clock.progress is not None
        if leg.events or leg.on_step is not None or timed or model.lambda_w.numel() > 1:
            raise ValueError(
                f"method {self.name!r} takes no batch, until, on_step, time_limit or progress; "
                "use 'exponential'"
            )
        sizes = [state.means.numel(), state.propagator.numel()]

        def unpack(flat: NDArray[np.float64]) -> FlowState:
            """The state of a flat vector."""
            means, propagator = torch.from_numpy(flat).to(state.means).split(sizes)
            return FlowState(
                means.view_as(state.means), propagator.view_as(state.propagator), state.outer
            )

        def rate(_: float, flat: NDArray[np.float64]) -> NDArray[np.float64]:
            """The right-hand side, flat."""
            now = unpack(flat)
            return pack(*model.rate(now, model.weight(now)))

        def pack(means: Tensor, propagator: Tensor) -> NDArray[np.float64]:
            """The flat vector of a state."""
            return torch.cat([means.flatten(), propagator.flatten()]).cpu().numpy()

        first = pack(state.means, state.propagator)
        # scipy weighs every entry by itself, and many are 0 at first.
        atol = max(leg.atol, 1e-3 * leg.rtol * float(abs(first).max()))
        result = scipy.integrate.solve_ivp(
            rate,
            (leg.start, max(leg.times[-1], leg.start)),
            first,
            self.name,
            leg.times,
            rtol=leg.rtol,
            atol=atol,
        )
        status = Status.FINISHED if result.status == 0 else Status.STEP_TOO_SMALL
        states = [unpack(np.ascontiguousarray(column)) for column in result.y.T]
        cost = FlowCost(len(result.t), 0, result.nfev, space.basis.shape[-1])
        return Trajectory(space, list(result.t), states, status, cost)


Method = Exponential | Scipy
NAMED: dict[str, Method] = {
    "exponential": Exponential(),
    "DOP853": Scipy("DOP853"),
    "Radau": Scipy("Radau"),
}

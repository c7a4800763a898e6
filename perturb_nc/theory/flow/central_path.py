"""The central-path gradient flow (Tirer et al. 2023, Section 3), on class statistics."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.flow.integrators import NAMED, Leg, Method, Scipy
from perturb_nc.theory.flow.path import FlowPath, checked_times, columns, events, flow_paths
from perturb_nc.theory.flow.space import FlowSetting
from perturb_nc.theory.flow.walk import OnStep
from perturb_nc.theory.regularization import settings
from perturb_nc.validation import check_pairs, nonnegative, positive


def central_path_flow(
    statistics: ClassStatistics,
    *,
    lambda_w: float,
    lambda_h: float,
    times: Sequence[float],
    beta: float = 0.0,
    method: str | Method = "exponential",
    rtol: float = 1e-6,
    atol: float = 0.0,
    until: Mapping[str, float] | None = None,
    on_step: OnStep | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> FlowPath:
    """Gradient flow of the features with the last layer at its optimum for them.

        dH/dt = -N∇L(H) + β(H0 - H) = -(Wᵀ(WH - Y) + λ_H H) + β(H0 - H),   W = W*(H), H(0) = H0

    on class means and within-class covariance, at a cost independent of N. For balanced classes,
    β = 0, λ_W > 0, λ_H >= 0 and Σ_W(H0) ≠ 0 (Theorem 3.1): ÑC1 strictly decreases, and
    e^{2λ_H t} tr Σ_W decreases, e^{2λ_H t} tr Σ_B increases. With imbalanced classes the second
    alone holds, and ÑC1 can rise without bound. With β > 0 the flow ends at a stationary point of
    (1).

    Errors of ÑC1, NC1 and means were within ten times rtol for times up to 1e6 and λ_W >= 1e-8 (of
    NC1 within twenty at the worst), in a number of steps that grows with log t (and with λ_H t
    where λ_W is tiny and deviations die), as long as the K·m entries of W in its subspace are
    at most 1500; beyond, long times are slower and less exact. Where steps are long, Σ_W ⪰ 0 and
    the decrease of e^{2λ_H t} tr Σ_W still hold exactly, the rest of Theorem 3.1 to the tolerance.
    Deviations in the span of the means are followed down to a thousandth of all, so that NC1 is
    exact relative to itself, or to about 1e-6 ÑC1.

    Args:
        statistics: of H0; classes may be imbalanced.
        lambda_w: λ_W > 0.
        lambda_h: λ_H >= 0.
        times: increasing flow times >= 0 at which the path is kept, d×d numbers for each.
        beta: β >= 0.
        method: "exponential" (order 4, and Rosenbrock steps of order 5 where W* drifts slowly for
            long), "DOP853", "Radau" (scipy, as judges), or an object `Exponential(order=, step=)`.
        rtol, atol: local error allowed, on the root mean square of means and of deviations.
        until: stop where a metric reaches a value, {"nc1_trace": 0.1}; "speed" is |dH/dt| / |H|.
        on_step: called as on_step(time, statistics) after every accepted step, to keep or to plot.
        time_limit: seconds after which the path ends where it is, TIME_LIMIT; `extend` goes on.
        progress: called as progress(steps, flow time) after every accepted step.

    Raises:
        ValueError: hyper-parameters, times, tolerances, a method or a metric out of range.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> path = pnc.central_path_flow(
        ...     statistics, lambda_w=0.05, lambda_h=0.0, times=[0.0, 0.1, 1.0]
        ... )
        >>> [round(m.nc1_trace, 3) for m in path.metrics]  # falls
        [0.147, 0.131, 0.068]

    See Also:
        calibrate_depth: layers on a path. cascade: optima in steps. plot_path: its picture.

    Source: Tirer et al. 2023, Theorem 3.1; docs §4.5.
    """
    clock = Clock.of(time_limit, progress)
    watch = {"events": events(until or {}), "on_step": on_step, "clock": clock}
    return _flow(statistics, [lambda_w], [lambda_h], [beta], times, method, rtol, atol, watch)[0]


def central_path_flows(
    statistics: ClassStatistics,
    *,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    times: Sequence[float],
    beta: Sequence[float] | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> list[FlowPath]:
    """`central_path_flow` for B settings of the hyper-parameters at once, given as lists.

    All settings take common steps, as small as the hardest of them needs; time_limit and progress
    are those of all together.

    Raises:
        ValueError: as `central_path_flow`, and lists of different lengths.
    """
    betas = [0.0] * len(lambda_w) if beta is None else beta
    watch = {"clock": Clock.of(time_limit, progress)}
    return _flow(statistics, lambda_w, lambda_h, betas, times, "exponential", rtol, atol, watch)


def _flow(
    statistics: ClassStatistics,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    beta: Sequence[float],
    times: Sequence[float],
    method: str | Method,
    rtol: float,
    atol: float,
    watch: Mapping[str, Any],
) -> list[FlowPath]:
    check_full(statistics)
    own = settings(lambda_w, lambda_h, beta)
    check_pairs(statistics.num_classes, "a flow", 7 * len(own), statistics.means.device)
    values = columns(
        statistics, [s.lambda_w for s in own], [s.lambda_h for s in own], [s.beta for s in own]
    )
    if isinstance(method, str):
        if method not in NAMED:
            raise ValueError(f"method must be one of {', '.join(NAMED)}, got {method!r}")
        method = NAMED[method]
    setting = FlowSetting(statistics, *values)
    space = setting.all_of_space() if isinstance(method, Scipy) else setting.krylov_space()
    tolerances = positive(rtol, "rtol"), nonnegative(atol, "atol")
    first = space.model.initial_state()
    run = method.integrate(Leg(space, first, 0.0, checked_times(times, 0.0), *tolerances, **watch))
    return flow_paths(run, rtol, atol, method)

"""The central-path gradient flow of Theorem 3.1 (Tirer et al. 2023), on class statistics."""

from collections.abc import Mapping, Sequence

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.theory.flow.integrators import Exponential, OnStep, Scipy
from perturb_nc.theory.flow.path import FlowPath, checked_times, columns, events, flow_paths
from perturb_nc.theory.flow.space import FlowSpace
from perturb_nc.theory.regularization import settings
from perturb_nc.validation import nonnegative, positive

Method = Exponential | Scipy
METHODS: dict[str, Method] = {
    "exponential": Exponential(),
    "DOP853": Scipy("DOP853"),
    "Radau": Scipy("Radau"),
}


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
) -> FlowPath:
    """Gradient flow of the features with the last layer at its optimum for them.

        dH/dt = -N∇L(H) + β(H0 - H) = -(Wᵀ(WH - Y) + λ_H H) + β(H0 - H),   W = W*(H), H(0) = H0

    on class means and within-class covariance, at a cost independent of N. At β = 0, λ_W > 0 and
    λ_H >= 0, as long as Σ_W ≠ 0 (Theorem 3.1): ÑC1 strictly decreases, e^{2λ_H t} tr Σ_W decreases
    and e^{2λ_H t} tr Σ_B increases. With β > 0 the flow ends at a stationary point of (1).

    Args:
        statistics: of H0; classes may be imbalanced.
        lambda_w: λ_W > 0.
        lambda_h: λ_H >= 0.
        times: increasing flow times >= 0 at which the path is kept, d×d numbers for each.
        beta: β >= 0.
        method: "exponential" (order 4), "DOP853", "Radau" (scipy, as judges), or an object
            `Exponential(order=, step=)`.
        rtol, atol: local error allowed, on the root mean square of means and of deviations.
        until: stop where a metric reaches a value, {"nc1_trace": 0.1}; "speed" is |dH/dt| / |H|.
        on_step: called as on_step(time, statistics) after every accepted step.

    Raises:
        ValueError: hyper-parameters, times, tolerances, a method or a metric out of range.

    Source: Tirer et al. 2023, Theorem 3.1; DESIGN §4.5.
    """
    paths = _flow(
        statistics, [lambda_w], [lambda_h], [beta], times, method, rtol, atol, until, on_step
    )
    return paths[0]


def central_path_flows(
    statistics: ClassStatistics,
    *,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    times: Sequence[float],
    beta: Sequence[float] | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
) -> list[FlowPath]:
    """`central_path_flow` for B settings of the hyper-parameters at once, given as lists.

    All settings take common steps, as small as the hardest of them needs.

    Raises:
        ValueError: as `central_path_flow`, and lists of different lengths.
    """
    betas = [0.0] * len(lambda_w) if beta is None else beta
    return _flow(
        statistics, lambda_w, lambda_h, betas, times, "exponential", rtol, atol, None, None
    )


def _flow(
    statistics: ClassStatistics,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    beta: Sequence[float],
    times: Sequence[float],
    method: str | Method,
    rtol: float,
    atol: float,
    until: Mapping[str, float] | None,
    on_step: OnStep | None,
) -> list[FlowPath]:
    check_full(statistics)
    own = settings(lambda_w, lambda_h, beta)
    values = columns(
        statistics, [s.lambda_w for s in own], [s.lambda_h for s in own], [s.beta for s in own]
    )
    if isinstance(method, str):
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        method = METHODS[method]
    space = FlowSpace(statistics, *values)
    if isinstance(method, Scipy):
        space.use_everything()
    run = method.integrate(
        space,
        space.model.initial_state(),
        0.0,
        checked_times(times, 0.0),
        rtol=positive(rtol, "rtol"),
        atol=nonnegative(atol, "atol"),
        events=events(space, until or {}),
        on_step=on_step,
    )
    return flow_paths(space, run, rtol, atol)

"""The optimum of (1) for many settings of the hyper-parameters at once."""

import math
from collections.abc import Sequence
from dataclasses import fields

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.theory.batch_points import Part, chunks, metrics_at, points
from perturb_nc.theory.certificate import certify_batch
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.compression import compress
from perturb_nc.theory.descent import COUNTED, Descent, descend
from perturb_nc.theory.minimize import starting_weight
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.regularization import settings as all_settings
from perturb_nc.theory.solution_batch import SolutionBatch
from perturb_nc.theory.status import Status
from perturb_nc.validation import ArrayLike, as_matrix, at_least, check_pairs, positive


def minimize_batch(
    statistics: ClassStatistics,
    *,
    lambda_w: Sequence[float],
    lambda_h: Sequence[float],
    beta: Sequence[float],
    bias: bool = False,
    tol: float = 1e-10,
    max_steps: int = 200,
    initial_weight: ArrayLike | None = None,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> SolutionBatch:
    """`minimize` for B settings of the hyper-parameters, on the device of the statistics.

    All settings are solved together on a subspace of some 11 K dimensions that holds their weights
    (see `perturb_nc.theory.compression`), where the features are much wider than that. The subspace
    grows for those whose gradient in all d dimensions is not below `tol`.

    Args:
        statistics: of H0.
        lambda_w, lambda_h, beta, bias: the settings, lists of one length; one bias for all.
        tol: the relative gradient norm to reach, in all d dimensions.
        max_steps: Newton steps at most, in every subspace.
        initial_weight: (B, K, d), from `SolutionBatch.predicted_weight`, say; by default W*(H0).
        time_limit: seconds after which what has been reached is returned, with TIME_LIMIT.
        progress: called as progress(steps, gradient_norm) with the largest of those still moving.

    Raises:
        ValueError: settings out of range or of different lengths; tol, max_steps or time_limit out
            of range; statistics too badly scaled for float64.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> settings = {"lambda_w": [0.01, 0.1], "lambda_h": [0.05, 0.05], "beta": [0.5, 0.5]}
        >>> found = pnc.minimize_batch(statistics, **settings)
        >>> found.weight(1).shape, found.metrics["nc1"].shape
        (torch.Size([3, 5]), torch.Size([2]))

    See Also:
        minimize: one setting. sweep: a grid of them. small_vicinity_batch: in closed form.
    """
    tol, max_steps = positive(tol, "tol"), at_least(max_steps, 1, "max_steps")
    check_full(statistics)
    asked = [setting.bounded() for setting in all_settings(lambda_w, lambda_h, beta)]
    check_pairs(statistics.num_classes, "optima", 12 * len(asked), statistics.means.device)
    settings = torch.stack([setting.as_tensor(statistics.means) for setting in asked])
    if initial_weight is not None:
        shape = (len(settings), *statistics.means.shape)
        initial_weight = as_matrix(initial_weight, shape, name="initial_weight").to(settings)
    clock = Clock.of(time_limit, progress)
    space = compress(statistics, settings)
    parts: list[Part] = []
    rest = torch.arange(len(settings), device=settings.device)
    if initial_weight is None:
        weight = _starts(space.statistics, settings, bias)
    else:
        weight = space.compressed(initial_weight)
    counted = Descent.begun(weight)
    while True:
        rough = torch.zeros_like(rest, dtype=torch.bool)
        for rows in chunks(len(rest), space.statistics.dim):
            index = rest[rows]
            own = settings[index]
            found = descend(
                space.points(own, bias), weight[rows], tol, max_steps, space.neglected, clock
            )
            counted.add(index, found)
            weight[rows] = found.weight
            point = space.at(found.weight, own, bias)
            rough[rows] = (space.full_norm(point) > tol) & (not space.is_whole)
        if clock.expired():
            counted.end(rest[rough], Status.TIME_LIMIT)
            rough[:] = False
        parts.append(Part(rest[~rough], space, weight[~rough]))
        if not rough.any():
            break
        rest = rest[rough]
        point = space.at(weight[rough], settings[rest], bias)
        wider = space.grown(statistics, point, tol)
        space, weight = wider, wider.compressed(space.lifted(point.weight))
    return _collect(statistics, settings, bias, parts, counted)


def _starts(
    statistics: ClassStatistics, settings: Float64[Tensor, "b 3"], bias: bool
) -> Float64[Tensor, "b K n"]:
    """`starting_weight` of every setting: once for every λ_W where nothing else matters."""
    alike = bool(statistics.centered_means.any())
    known: dict[tuple[float, ...], Tensor] = {}
    starts = []
    for w, h, b in settings.tolist():
        key = (w,) if alike and b > 0 else (w, h, b)
        if key not in known:
            problem = NearCollapseProblem(statistics, lambda_w=w, lambda_h=h, beta=b, bias=bias)
            known[key] = starting_weight(problem)
        starts.append(known[key])
    return torch.stack(starts)


def _collect(
    statistics: ClassStatistics,
    settings: Float64[Tensor, "B 3"],
    bias: bool,
    parts: list[Part],
    counted: Descent,
) -> SolutionBatch:
    own: dict[str, Tensor] = {}
    metrics: dict[str, Tensor] = {}

    def put(into: dict[str, Tensor], name: str, index: Tensor, found: Tensor) -> None:
        if name not in into:
            into[name] = found.new_zeros(len(settings), *found.shape[1:])
        into[name][index] = found

    for part, rows, point in points(parts, settings, bias):
        index = part.index[rows]
        certificate = certify_batch(point)
        for field in fields(certificate):
            put(own, field.name, index, getattr(certificate, field.name))
        put(own, "gradient_norm", index, part.space.full_norm(point))
        put(own, "singular_values", index, torch.linalg.svdvals(point.weight))
        put(own, "objective", index, point.objective)
        for name, found in metrics_at(point).items():
            put(metrics, name, index, found)
    w, h, b = settings.unbind(1)
    return SolutionBatch(
        statistics=statistics,
        bias=bias,
        lambda_w=w,
        lambda_h=h,
        beta=b,
        metrics=metrics,
        _parts=parts,
        **own,
        status=counted.status,
        **{name: getattr(counted, name) for name in COUNTED},
    )

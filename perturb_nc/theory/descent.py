"""Newton steps from given weights to points of second order, for many settings at once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.theory.arrays import Mask
from perturb_nc.theory.certificate import certify_batch
from perturb_nc.theory.clock import Clock
from perturb_nc.theory.curvature import lowest_curvature
from perturb_nc.theory.line_search import line_search, realigned
from perturb_nc.theory.point import Evaluate, Point, Points, wide
from perturb_nc.theory.settled import newton_direction
from perturb_nc.theory.status import Status
from perturb_nc.theory.unused import advised

Neglected = Callable[[Any], Float64[Tensor, "b"]]


COUNTED = ("steps", "products", "lowest_curvature", "curvature_tolerance")


@dataclass(frozen=True, eq=False)
class Descent:
    """Where every member of a batch ended; the curvature is NaN where it was not judged."""

    weight: Float64[Tensor, "B K d"]
    steps: Int64[Tensor, "B"]
    products: Int64[Tensor, "B"]
    status: list[Status]
    lowest_curvature: Float64[Tensor, "B"]
    curvature_tolerance: Float64[Tensor, "B"]

    @classmethod
    def begun(cls, weight: Float64[Tensor, "B K d"]) -> "Descent":
        """Nothing done yet."""
        none = torch.zeros(len(weight), dtype=torch.int64, device=weight.device)
        unknown = torch.full_like(weight[:, 0, 0], torch.nan)
        status = [Status.CONVERGED] * len(weight)
        return cls(weight.clone(), none, none.clone(), status, unknown, unknown.clone())

    def add(self, members: Int64[Tensor, "b"], other: "Descent") -> None:
        """Some members have gone on, in coordinates of their own."""
        self.steps[members] += other.steps
        self.products[members] += other.products
        self.lowest_curvature[members] = other.lowest_curvature
        self.curvature_tolerance[members] = other.curvature_tolerance
        for i, status in zip(members.tolist(), other.status, strict=True):
            self.status[i] = status

    def end(self, members: Int64[Tensor, "b"], status: Status) -> None:
        """Give some members a status."""
        for i in members.tolist():
            self.status[i] = status

    def judge(self, members: Int64[Tensor, "b"], point: Point) -> Float64[Tensor, "b K d"]:
        """Record the lowest curvature at points of some members; the direction off a saddle."""
        judged = lowest_curvature(point)
        self.lowest_curvature[members] = judged.lowest
        self.curvature_tolerance[members] = judged.tolerance
        self.products[members] += judged.products
        return judged.direction

    def stepped(self, members: Int64[Tensor, "b"]) -> None:
        """Some members have moved on from where they were judged."""
        self.steps[members] += 1
        self.lowest_curvature[members] = torch.nan
        self.curvature_tolerance[members] = torch.nan


def descend(
    points: Points,
    weight: Float64[Tensor, "B K d"],
    tol: float,
    max_steps: int,
    neglected: Neglected | None = None,
    clock: Clock | None = None,
    judge: bool = True,
) -> Descent:
    """Newton steps from given weights, for B settings at once; those that have ended retire.

    points gives, for some of the settings, what takes their weights to their points.
    What is `neglected` of the gradient (see `perturb_nc.theory.compression`) is for a larger space:
    where it is above tol a gradient well below it is small enough, whatever its curvature.
    Elsewhere a member whose gradient is small, or which is stuck in rounding, retires if its
    certificate shows that it is global, or no direction of negative curvature leads on. Without
    `judge` any stationary point will do.
    """
    found, clock = Descent.begun(weight), clock or Clock()
    live = torch.arange(len(weight), device=weight.device)
    stuck = torch.zeros_like(live, dtype=torch.bool)
    previous = torch.full_like(weight[:, 0, 0], torch.inf)
    point = points(live)(weight)
    _check_scale(point.gradient_norm, point)
    point, _ = advised(point, points(live), ~stuck)
    while len(live):
        # Steps that gain little may follow a valley of rotations.
        slow = (found.steps[live] > 1) & (point.gradient_norm > 0.1 * previous[live]) & ~stuck
        previous[live] = point.gradient_norm
        own = partial(_members, points, live)
        point, enough = _turned(own, point, slow, tol, neglected)
        far, final = point.gradient_norm > enough, (enough <= tol) & judge
        found.weight[live] = point.weight
        clock.report(int(found.steps.max()), point.gradient_norm.max().item())
        open_ = (~far | stuck) & final  # stationary, and perhaps a saddle
        if clock.expired() or open_.any():
            open_ = open_ & ~certify_batch(point).is_global
        if clock.expired():
            found.end(live[open_ | (far & ~stuck)], Status.TIME_LIMIT)
            found.end(live[far & stuck & ~open_], Status.STALLED)
            return found
        if open_.any():
            point, leapt = advised(point, points(live), open_)
            if leapt.any():
                found.steps[live[leapt]] += 1
                stuck = stuck & ~leapt
                continue
        move, expand = _directions(point, live, far & ~stuck, open_, enough, clock, found)
        moving = move.flatten(1).any(1)
        kept = moving & (found.steps[live] < max_steps)
        _retire(found, live, far, moving, kept, open_, clock)
        _judge_rest(found, points, live[moving & ~kept & ~open_ & final])
        live, far, final, stuck, open_ = (x[kept] for x in (live, far, final, stuck, open_))
        if not len(live):
            break
        if not kept.all():
            point = point.members(kept)
        trial, gained = line_search(
            partial(_members, points, live), point, move[kept], expand[kept]
        )
        found.stepped(live[gained])
        # What no step improves may be a saddle; what left no saddle has ended.
        ended = ~gained & (open_ | ~final)
        found.end(live[ended & far], Status.STALLED)
        best = torch.where(wide(gained), trial.weight, found.weight[live])
        live, stuck = live[~ended], ~gained[~ended]
        point = trial if gained.all() else points(live)(best[~ended])
    return found


def _retire(
    found: Descent,
    live: Int64[Tensor, "b"],
    far: Mask,
    moving: Mask,
    kept: Mask,
    improvable: Mask,
    clock: Clock,
) -> None:
    """What is said of the members that take no further step."""
    found.end(live[far & ~moving], Status.STALLED)
    found.end(live[moving & ~kept], Status.MAX_STEPS)
    if clock.expired():
        found.end(live[improvable & ~moving], Status.TIME_LIMIT)


def _members(points: Points, live: Int64[Tensor, "b"], rows: Int64[Tensor, "r"]) -> Evaluate:
    return points(live[rows])


def _turned(
    points: Points, point: Point, wanted: Mask, tol: float, neglected: Neglected | None
) -> tuple[Point, Float64[Tensor, "b"]]:
    """The point, better aligned with H0 where its gradient is large, and the norm to reach."""
    enough = _enough(point, tol, neglected)
    wanted = wanted & (point.gradient_norm > enough)
    if not wanted.any():
        return point, enough
    point = realigned(points, point, wanted)
    return point, _enough(point, tol, neglected)


def _judge_rest(found: Descent, points: Points, members: Int64[Tensor, "b"]) -> None:
    """Record the lowest curvature where max_steps ended a descent."""
    if len(members):
        point = points(members)(found.weight[members])
        members = members[~certify_batch(point).is_global]
    if len(members):
        found.judge(members, points(members)(found.weight[members]))


def _enough(point: Point, tol: float, neglected: Neglected | None) -> Float64[Tensor, "b"]:
    """The gradient norm to reach: tol, or a tenth of what is neglected where that is above tol."""
    if neglected is None:
        return torch.full_like(point.gradient_norm, tol)
    beyond = neglected(point)
    return torch.where(beyond > tol, 0.1 * beyond, 0.0).clamp(min=tol)


def _check_scale(values: Tensor, point: Point) -> None:
    if not values.isfinite().all():
        raise ValueError(
            f"statistics are too badly scaled for float64 ({point.scale}); rescale the features so "
            "that |H0|²/N is near 1, and subtract a common offset"
        )


def _directions(
    point: Point,
    live: Int64[Tensor, "b"],
    far: Mask,
    improvable: Mask,
    enough: Float64[Tensor, "b"],
    clock: Clock,
    found: Descent,
) -> tuple[Float64[Tensor, "b K d"], Mask]:
    """Where to move each member (0: nowhere), and whether to expand.

    Newton's direction where the member is `far`, negative curvature where it is `improvable`.
    """
    move, expand = torch.zeros_like(point.weight), torch.zeros_like(far)

    def part(chosen: Mask) -> Any:
        return point if chosen.all() else point.members(chosen)

    if far.any():
        norm = point.gradient_norm[far]
        forcing = torch.maximum(norm.clamp(max=0.1), 0.1 * enough[far] / norm)
        own = part(far)
        solved = newton_direction(own, forcing, clock)
        move[far] = solved.solution
        found.products[live[far]] += solved.products
        expand[far] = solved.bent & (solved.products == 1)
    if improvable.any():
        move[improvable] = found.judge(live[improvable], part(improvable))
        expand[improvable] = True
    _check_scale(move, point)
    # Rounding there would grow: nothing holds W in directions that its features do not have.
    idle = getattr(point, "idle", 0)
    move[..., move.shape[-1] - idle :] = 0.0
    return move, expand

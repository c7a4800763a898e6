"""Linear systems with the Hessian at an isolated optimum of (1): all its derivatives are such."""

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from perturb_nc.theory.arrays import total
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status
from perturb_nc.theory.tangents import gradient_tangent
from perturb_nc.validation import instance, positive

_TOLERANCE = 1e-12
_STATIONARY = 1e-6  # a derivative at a point less stationary than this would mislead
_DENSE_LIMIT = 1024  # K·d up to which the Hessian of g is formed, for speed
NOT_ISOLATED = (
    "solution must be an isolated optimum, but the Hessian is singular there (a family of optima, "
    "such as rotations of unseparated class means); change beta or the features"
)


def weight_response(
    point: ReducedPoint, change: Float64[Tensor, "... b 3"]
) -> tuple[Float64[Tensor, "... b K d"], Bool[Tensor, "... b"]]:
    """dW* = -∇²g⁻¹ ∂∇g along changes of (λ_W, λ_H, β), at a batch of optima.

    Also whether each optimum is isolated; where it is not, dW* does not exist. A leading dimension
    of the changes is one of several directions at every optimum.
    """
    forcing = gradient_tangent(point, change)
    right = -forcing.reshape(-1, *forcing.shape[-2:])
    copies = torch.arange(len(point.weight), device=right.device)
    many = point.members(copies.repeat(len(right) // len(copies)))
    found = solve_hessian(many, right, _TOLERANCE).solution
    residual = total((right - many.hessian_vector_product(found)).square())
    isolated = residual <= 1e-12 * total(right.square())
    return found.view_as(forcing), isolated.view(forcing.shape[:-2])


def solve_isolated(
    point: ReducedPoint, right: Float64[Tensor, "p K d"]
) -> Float64[Tensor, "p K d"]:
    """∇²g⁻¹ of every right-hand side at an optimum; ValueError where ∇²g is singular."""
    if right[0].numel() > _DENSE_LIMIT:
        family = ReducedPoint(
            point.reference, point.weight[None], point.hyperparameters[None], point.has_bias
        )
        found = solve_hessian(family, right[:, None], _TOLERANCE).solution[:, 0]
        residual = right - point.hessian_vector_product(found)
        isolated = bool(
            (residual.flatten(1).norm(dim=1) <= 1e-6 * right.flatten(1).norm(dim=1)).all()
        )
    else:
        size = right[0].numel()
        units = torch.diag(right.new_ones(size)).unflatten(1, right.shape[1:])
        hessian = point.hessian_vector_product(units).flatten(1)
        values, vectors = torch.linalg.eigh(0.5 * (hessian + hessian.mT))
        isolated = bool(values[0] > 1e-12 * values[-1])
        found = ((right.flatten(1) @ vectors / values) @ vectors.mT).view_as(right)
    if not isolated:
        raise ValueError(NOT_ISOLATED)
    return found


def check_isolated(solution: Solution) -> None:
    """ValueError unless the optimum has derivatives, as far as that can be told at sight."""
    instance(solution, Solution, "solution", "minimize(problem) gives one")
    if solution.status is not Status.CONVERGED:
        raise ValueError(f"solution must have converged; it {solution.status.value}")
    if solution.gradient_norm > _STATIONARY:
        raise ValueError(
            f"solution must be stationary to {_STATIONARY:g}, got gradient_norm = "
            f"{solution.gradient_norm:.1e}; minimise with the default tol"
        )
    positive(solution.problem.beta, "beta of the solution (at 0 rotations leave the optimum free)")

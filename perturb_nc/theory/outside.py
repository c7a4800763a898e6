"""The lowest curvature of g in all d dimensions, judged in a space that holds W.

V is such a space (`perturb_nc.theory.compression`), γ = β/c, M the Hessian at fixed H. Outside of V
features vary as those of H0 do, but for γ, and along u qᵀ with qᵀΣ_W0q = s the curvature is

    (cγ²s uᵀGu - uᵀEEᵀu/(cN) + λ_W/K) / (γ²s + λ_W/K),

between its values at the least s and at s = ∞. So it is at least μ where cG ≻ μI and
γ²s(cG - μ) ⪰ EEᵀ/(cN) - (1-μ)(λ_W/K)I, which a Cholesky factor of Σ_W0 - sI proves for all of
space; μ is half of θ, the lowest in V, or θ where that is below 0.

What joins V to the rest is the residual there of the lowest direction Z in V,

    γ²(cG - θ)(Z - ZWᵀF)Σ_W0(I - VVᵀ),

and like that of a Lanczos process its norm is a tolerance, with M⁻¹ ⪯ (K/λ_W)I.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.arrays import Rows, total
from perturb_nc.theory.compression import Compression
from perturb_nc.theory.lanczos import lowest_pair
from perturb_nc.theory.reduced import ReducedPoint

_KNOWN = 0.1  # of the lowest value, or
_SMALL = 1e-6  # this, is the most that may join V to the rest
_UNUSED = 0.1  # of λ_W/K: features that vary less call for `theory.unused`


def judged_in_space(
    statistics: ClassStatistics, space: Compression, point: ReducedPoint
) -> tuple[float, float, int] | None:
    """Lowest curvature, its tolerance and products taken, at one stationary point of a space.

    None where the space does not tell: where curvature is negative, features outside vary too
    little, or too much joins them to V.
    """
    if space.outside is None or not bool((point.beta > 0).all()):
        return None
    lowest, residual, direction, products = lowest_pair(
        point, point.residual_spectrum[1][..., -1:], point.idle
    )
    across = residual_outside(space, point, lowest, direction)
    joined = (total(across.square()) / point.ridge[..., 0, 0]).sqrt()
    # Turning W with the features changes g by the gradient alone.
    beside = total(point.precondition(point.gradient).square()) / total(point.weight.square())
    tolerance = residual + joined + beside.sqrt() + _SMALL
    known = joined < (_KNOWN * lowest.abs()).clamp(min=_SMALL)
    if not bool((known & (lowest > -tolerance)).all()):
        return None
    if not vary_enough(statistics, point, float(lowest.minimum(0.5 * lowest))):
        return None
    return float(lowest), float(tolerance), int(products)


def residual_outside(
    space: Compression, point: ReducedPoint, value: Float64[Tensor, "1"], direction: Rows
) -> Float64[Tensor, "1 K n"]:
    """∇²g[Z] - θM[Z] outside of V, at a stationary point, of a direction Z in V."""
    assert space.outside is not None
    lean = point.c * point.gain
    lean.diagonal(dim1=-2, dim2=-1).sub_(value[:, None])
    rows = (direction - (direction @ point.weight.mT) @ point.lift)[..., :-1]
    return (point.beta / point.c) ** 2 * (lean @ rows @ space.outside.mT)


def vary_enough(statistics: ClassStatistics, point: ReducedPoint, least: float) -> bool:
    """Whether Σ_W0 ≻ sI for an s from which on no curvature is below `least`."""
    lean, needed = point.c * point.gain, point.residual_moment / point.c
    lean.diagonal(dim1=-2, dim2=-1).sub_(least)
    needed.diagonal(dim1=-2, dim2=-1).sub_((1 - least) * point.ridge[..., 0])
    root, failed = torch.linalg.cholesky_ex(lean)
    if failed.any():
        return False
    half = torch.linalg.solve_triangular(root, needed, upper=False)
    both = torch.linalg.solve_triangular(root, half.mT, upper=False)
    most = torch.linalg.eigvalsh(0.5 * (both + both.mT)).amax()
    shrunk = ((point.beta / point.c) ** 2).amax()
    spread = torch.maximum(most, _UNUSED * point.ridge.amax()) / shrunk
    shifted = statistics.within.clone()
    shifted.diagonal().sub_(spread)
    return not bool(torch.linalg.cholesky_ex(shifted).info.any())

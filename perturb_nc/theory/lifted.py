"""Problem (1) as a semidefinite program in cvxpy: the independent judge, for small problems."""

from dataclasses import dataclass

import cvxpy as cp
import numpy as np
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.problem import NearCollapseProblem

MAX_SIZE = 100
"""Largest order of the semidefinite matrix that is accepted: tens of seconds with Clarabel."""


@dataclass(frozen=True, eq=False, repr=False)
class LiftedOptimum(Summarised):
    """Optimum of the convex lift of (1).

    Attributes:
        value: its optimal value, a lower bound of the minimum of f, to the solver's accuracy.
        weight: the block of G that stands for W; optimal for (1) where the lift is tight.
        trace_excess: tr G₂₂ + tr G₃₃ - |G₂₁|² - |G₃₁|². Where it is 0, (W, H) = (G₂₁, G₃₁ᵀ)
            attains value, which then is the minimum of f. (It need not be 0 where optima form a
            continuum, as at β = 0.)
        status: cvxpy's.
    """

    value: float
    weight: Float64[Tensor, "K d"]
    trace_excess: float
    status: str


def lifted_optimum(problem: NearCollapseProblem) -> LiftedOptimum:
    """Solve the convex lift of (1): G = UUᵀ with U = [I_d; W; Hᵀ] relaxed to G ⪰ 0, G₁₁ = I.

    Every term of f is linear or convex quadratic in G: W = G₂₁, Hᵀ = G₃₁, tr G₂₂ ≥ |W|²,
    tr G₃₃ ≥ |H|², WH = G₂₃. f is invariant under a rotation of the samples, so the N samples are
    first rotated into K class means √π_k μ_k and the columns of a square root of Σ_W0: an exactly
    equal problem with K + rank Σ_W0 columns. Where r <= 1 (see `certify`) value equals the minimum
    of f; always it is a lower bound.

    Raises:
        ValueError: a problem too large for a semidefinite solver.

    Source: docs §4.2; solver Clarabel (Goulart & Chen 2024).
    """
    anchors, onehot, indicator = _rotated_samples(problem.statistics)
    (d, columns), k = anchors.shape, len(onehot)
    size = d + k + columns
    if size > MAX_SIZE:
        raise ValueError(
            f"the lift of d = {d}, K = {k} has order {size} > {MAX_SIZE}; project the features to "
            "fewer dimensions, or use certify(), whose bound costs a K×K eigenproblem"
        )
    lift = cp.Variable((size, size), PSD=True)
    one, two, three = slice(d), slice(d, d + k), slice(d + k, size)
    weight, features, bias = lift[two, one], lift[three, one].T, cp.Variable(k)
    weight_size, feature_size = cp.trace(lift[two, two]), cp.trace(lift[three, three])
    objective = (
        0.5 * cp.sum_squares(lift[two, three] + cp.outer(bias, indicator) - onehot)
        + problem.lambda_w / (2 * k) * weight_size
        + 0.5 * (problem.lambda_h + problem.beta) * feature_size
        - problem.beta * cp.sum(cp.multiply(features, anchors))
        + 0.5 * problem.beta * float((anchors**2).sum())
    )
    constraints = [lift[one, one] == np.eye(d)]
    if not problem.bias:
        constraints.append(bias == 0)
    program = cp.Problem(cp.Minimize(objective), constraints)
    program.solve(solver=cp.CLARABEL)
    blocks = (weight.value**2).sum() + (features.value**2).sum()
    return LiftedOptimum(
        value=float(program.value),
        weight=torch.from_numpy(np.array(weight.value)),
        trace_excess=float(weight_size.value + feature_size.value - blocks),
        status=str(program.status),
    )


def _rotated_samples(
    statistics: ClassStatistics,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """H0/√N (d×m), Y/√N (K×m) and 1ᵀ/√N (m) in rotated samples, of which m = K + rank Σ_W0."""
    roots, vectors = torch.linalg.eigh(statistics.within)
    kept = roots > 1e-14 * roots.max()
    root_priors = statistics.priors.sqrt()
    spread = vectors[:, kept] * roots[kept].sqrt()
    anchors = torch.cat([statistics.means.mT * root_priors, spread], dim=1)
    nothing = spread.new_zeros(len(root_priors), spread.shape[1])
    onehot = torch.cat([root_priors.diag(), nothing], dim=1)
    indicator = torch.cat([root_priors, nothing[0]])
    return anchors.cpu().numpy(), onehot.cpu().numpy(), indicator.cpu().numpy()

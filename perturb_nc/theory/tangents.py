"""First derivatives of problem (1) at a weight along changes of W, λ_W, λ_H and β, by formula.

Notation of `perturb_nc.theory.optimal_features`; a dot marks the change, c˙ = λ_H˙ + β˙. The point
may have leading batch dimensions, and the changes more of them in front: several at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.tangents import Change, metric_tangents
from perturb_nc.moments import Covariance, Moments, Scalar, trace
from perturb_nc.theory.arrays import Factor, Rows, total
from perturb_nc.theory.reduced import ReducedPoint

Parameters = Float64[Tensor, "... 3"]


@dataclass(frozen=True, eq=False)
class WithinClasses(Covariance):
    """Σ_W of the features at points."""

    point: ReducedPoint

    def trace(self) -> Scalar:
        """tr Σ_W."""
        return self.point.within_trace

    def through(self, rows: Rows) -> Rows:
        """Rows times Σ_W."""
        return self.point.through_within(rows)


@dataclass(frozen=True, eq=False)
class WithinChange(Covariance):
    """Σ_W˙ along (W˙, (λ_W, λ_H, β)˙): 2(β˙/β)Σ_W - Z - Zᵀ, Z = P⁻¹P˙Σ_W, P˙ = (WᵀW)˙ + c˙I."""

    point: ReducedPoint
    weight: Rows
    parameters: Parameters

    @property
    def _rates(self) -> tuple[Factor, Factor]:
        """2β˙/β and c˙."""
        lambda_h, beta = (self.parameters[..., i, None, None] for i in (1, 2))
        return 2 * _growth(self.point, beta), lambda_h + beta

    def trace(self) -> Scalar:
        """tr Z = ⟨W˙, WΣ_WP⁻¹ + FΣ_W⟩ + c˙ tr(Σ_WP⁻¹)."""
        point = self.point
        growth, c = (rate[..., 0, 0] for rate in self._rates)
        read = point.solve(point.weight_within) + point.gain @ point.weight_within
        half = total(self.weight * read) + c * point.shrunk_trace
        return growth * point.within_trace - 2 * half

    def through(self, rows: Rows) -> Rows:
        """Rows times Σ_W˙."""
        point, weight = self.point, self.weight
        growth, c = self._rates
        ahead, behind = point.solve(rows), point.through_within(rows)
        moved = (ahead @ weight.mT) @ point.weight_within
        moved = moved + point.through_within((rows @ point.lift.mT) @ weight + c * ahead)
        turned = (behind @ weight.mT) @ point.lift
        along = (rows @ point.weight_within.mT) @ weight + c * behind
        return growth * behind - moved - turned - point.solve(along)

    def matrix(self) -> Float64[Tensor, "... d d"]:
        """Σ_W˙ itself."""
        point, weight = self.point, self.weight
        growth, c = self._rates
        left = torch.cat(torch.broadcast_tensors(point.lift, point.solve(weight)), dim=-2)
        right = (weight @ point.within, point.weight_within)
        rows = torch.cat(torch.broadcast_tensors(*right), dim=-2)
        half = 0.5 * growth * point.within - c * point.solve(point.within) - left.mT @ rows
        return half + half.mT


@dataclass(frozen=True, eq=False)
class PointTangent:
    """Changes of the class means of H, of its Σ_W and of the objective."""

    means: Rows
    covariance: WithinChange
    objective: Scalar

    @property
    def within(self) -> Float64[Tensor, "... d d"]:
        """The change of Σ_W as a matrix."""
        return self.covariance.matrix()


def point_tangent(point: ReducedPoint, weight: Rows, parameters: Parameters) -> PointTangent:
    """Changes of H's class statistics and of f along (W˙, (λ_W, λ_H, β)˙).

        M˙ = P⁻¹(β˙M0 - c˙M - W˙ᵀE - WᵀW˙M),

    the means centred, and their own mean (β/c)h̄0 apart, in the model with bias. `objective`: f˙.
    """
    lambda_h, beta = (parameters[..., i, None, None] for i in (1, 2))
    c = lambda_h + beta
    means = _means_at_fixed_weight(point, parameters)
    means = (
        means - point.residuals @ point.solve(weight) - (point.own_means @ weight.mT) @ point.lift
    )
    drift = (beta * point.c - point.beta * c) / point.c.square()
    return PointTangent(
        means=means + drift * _mean(point),
        covariance=WithinChange(point, weight, parameters),
        objective=total(point.gradient * weight) + _partial_objective(point, parameters),
    )


def gradient_tangent(point: ReducedPoint, parameters: Parameters) -> Rows:
    """∂∇g along (λ_W, λ_H, β)˙ at fixed W: E˙Hᵀ/N + EH˙ᵀ/N + (λ_W˙/K)W.

    Between classes M˙ = P⁻¹(β˙M0 - c˙M) and E˙ = WM˙; within them
    WΣ_W˙ = 2(β˙/β)WΣ_W - c˙(G WΣ_W + WΣ_WP⁻¹).
    """
    lambda_w, lambda_h, beta = (parameters[..., i, None, None] for i in range(3))
    priors = point.reference.priors[:, None]
    means = _means_at_fixed_weight(point, parameters)
    between = (means @ point.weight.mT).mT @ (priors * point.own_means)
    between = between + point.residuals.mT @ (priors * means)
    rows = point.weight_within
    within = 2 * _growth(point, beta) * rows
    within = within - (lambda_h + beta) * (point.gain @ rows + point.solve(rows))
    return between + within + lambda_w / len(priors) * point.weight


def outcome_tangents(
    point: ReducedPoint,
    statistics: Moments,
    values: Mapping[str, Scalar],
    weight: Rows,
    change: PointTangent,
) -> dict[str, Scalar]:
    """Changes of metrics, with the values they have, at `statistics` = moved(means, Σ_W) of H."""
    reference = point.reference
    old = trace(reference.within)
    # The class variances are those of H0 times tr Σ_W / tr Σ_W0.
    factor = torch.where(old > 0, change.covariance.trace() / old, 0.0)
    variance = factor[..., None] * reference.class_variance
    moved = Change(change.means, change.covariance, variance, weight)
    return metric_tangents(values, statistics, point.weight, moved)


def _means_at_fixed_weight(point: ReducedPoint, parameters: Parameters) -> Rows:
    """P⁻¹(β˙M0 - c˙M), of the centred means in the model with bias."""
    lambda_h, beta = (parameters[..., i, None, None] for i in (1, 2))
    anchors = point.reference.means - _mean(point)
    return point.solve(beta * anchors - (lambda_h + beta) * point.own_means)


def _growth(point: ReducedPoint, beta: Factor) -> Factor:
    """β˙/β; at β = 0, where Σ_W = O(β²), 0."""
    return torch.where(point.beta > 0, beta / point.beta, 0.0)


def _mean(point: ReducedPoint) -> Float64[Tensor, "1 d"]:
    """h̄0 with bias, 0 without."""
    mean = point.reference.priors[None] @ point.reference.means
    return mean if point.has_bias else torch.zeros_like(mean)


def _partial_objective(point: ReducedPoint, parameters: Parameters) -> Scalar:
    """∂f = λ_W˙|W|²/(2K) + (λ_H˙|H|² + β˙|H - H0|²)/(2N), with c(H - H0) = -(λ_HH0 + WᵀE).

    Deviations within classes have E = βFδ0, so that no term of |λ_HH0 + WᵀE|² is a difference.
    """
    reference, w = point.reference, point.weight
    priors = reference.priors[:, None]
    lambda_h, beta, c = (v[..., 0, 0] for v in (point.lambda_h, point.beta, point.c))
    size = total(priors * point.means.square()) + trace(point.within)
    read = point.through_reference(point.lift)
    within = beta**2 * total((w @ w.mT) * (read @ point.lift.mT))
    within = within + 2 * lambda_h * beta * total(w * read)
    within = within + lambda_h**2 * trace(reference.within)
    between = point.lambda_h * reference.means + point.residuals @ w
    moved = (total(priors * between.square()) + within) / c**2
    decay = total(w.square()) / len(priors)
    costs = torch.stack([decay, size, moved], dim=-1)
    return 0.5 * (parameters * costs).sum(-1)

"""The optimum with cross-entropy for features near collapse, without solving anything."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float64, Int64
from torch import Tensor
from torch.autograd.functional import jvp

from perturb_nc.metrics.table import metric_tensors
from perturb_nc.metrics.tangents import Change, metric_tangents
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.cross_entropy.certificate import certificate_of
from perturb_nc.theory.cross_entropy.minimize import (
    moved_statistics,
    optimal_features,
    outer_bias,
)
from perturb_nc.theory.cross_entropy.near import (
    LayerChange,
    NearSamples,
    NearScalars,
    near_optimum,
    near_scalars,
    solve_near,
)
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem
from perturb_nc.theory.hyperparameter_response import HyperparameterResponse
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.vicinity.frame import nearest_frame
from perturb_nc.theory.vicinity.prediction import SmallVicinity, relative_error, status_of
from perturb_nc.validation import at_least, positive


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropyVicinity(SmallVicinity):
    """`SmallVicinity` with cross-entropy, of the same attributes.

    Attributes:
        gamma_in: what is left of deviations within classes between two other classes,
            β/(c + α²p_other); gamma_out as with the squared loss.
        gamma_towards: and towards the own class, β/(c + α²κ), κ = K p_y p_other.
    """

    problem: CrossEntropyProblem  # type: ignore[assignment]  # its sibling
    gamma_towards: float
    _point: CrossEntropyPoint
    _nearest: NearSamples  # type: ignore[assignment]
    _scalars: NearScalars  # type: ignore[assignment]

    @cached_property
    def derivatives(self) -> HyperparameterResponse:
        """Derivatives in λ_W, λ_H and β, those of the closed form of first order at any `order`."""
        problem = self.problem
        strengths = self.weight.new_tensor([getattr(problem, name) for name in HYPERPARAMETERS])

        def closed(own: Float64[Tensor, "3"]) -> tuple[Tensor, ...]:
            """The closed form at these parameters."""
            found = near_optimum(self._nearest, _scalars_of(problem, own))
            means = found.means + own[2] / (own[1] + own[2]) * problem.shift
            return found.weight, means, found.within, found.variances

        weight, *moments = closed(strengths)
        moves = [jvp(closed, strengths, unit)[1] for unit in torch.diag(torch.ones_like(strengths))]
        slopes = [torch.stack(parts) for parts in zip(*moves, strict=True)]
        statistics = ClassStatistics(self.statistics.counts, *moments)
        change = Change(slopes[1], slopes[2], slopes[3], slopes[0])
        tangents = metric_tangents(metric_tensors(statistics, weight), statistics, weight, change)
        rows = {name: tangent.tolist() for name, tangent in tangents.items()}
        reference = problem.samples.features + problem.shift
        features, n = self.features(reference, problem.labels), len(problem.labels)
        decayed = self.weight.square().sum()
        if self.bias is not None and problem.bias_decay:
            decayed = decayed + self.bias.square().sum()
        costs = (
            decayed.item() / (2 * problem.num_classes),
            features.square().sum().item() / (2 * n),
            (features - reference).square().sum().item() / (2 * n),
        )
        return HyperparameterResponse(
            weight=dict(zip(HYPERPARAMETERS, slopes[0], strict=True)),
            means=dict(zip(HYPERPARAMETERS, slopes[1], strict=True)),
            within=dict(zip(HYPERPARAMETERS, slopes[2], strict=True)),
            metrics={p: {m: r[i] for m, r in rows.items()} for i, p in enumerate(HYPERPARAMETERS)},
            objective=dict(zip(HYPERPARAMETERS, costs, strict=True)),
        )

    def _features(self, x: Float64[Tensor, "n d"], y: Int64[Tensor, "n"]) -> Float64[Tensor, "n d"]:
        (k, _), s, frame = self.weight.shape, self._scalars, self.frame
        if self.order > 1:
            return optimal_features(self.problem, self._point, x, y)
        deviations = x - self.problem.statistics.means[y]
        inside = deviations @ frame.mT
        own = s.kept.own(k) * inside.gather(1, y[:, None])
        kept = (s.kept.between - s.off_span) * (inside @ frame) + own * frame[y]
        return self.statistics.means[y] + s.off_span * deviations + kept


def cross_entropy_vicinity(problem: CrossEntropyProblem, *, order: int = 1) -> CrossEntropyVicinity:
    """The optimum with cross-entropy for features near collapse, in closed form.

    With R the simplex frame nearest to the class means and m, α the sizes of means and weight at
    collapse, W, b, class means and class covariances to first order in what the class means are
    off mR, in the class covariances Σ_k0 of H0 and in π - 1/K: sums of tables of these, whose
    coefficients are scalars (`perturb_nc.theory.cross_entropy.near`). It sees the covariances of
    each class in the span, not samples; third moments, of order |h0 - μ0|³, are left out. Every
    order more is one step W - ∇²g₀⁻¹∇g(W) with the Hessian at collapse in closed form and the
    gradient on the samples, O(NKd); means and Σ_W are then exact for that weight.

    Args:
        problem: classes nearly balanced, λ_H and β > 0, √(λ_Wλ_H) < 1 - ε, without class weights.
        order: of the expansion, 1 or more; away from collapse more is not better.

    Returns:
        CrossEntropyVicinity, whose status says where the features are too far from collapse for it.

    Raises:
        ValueError: a problem that has no collapsed optimum of this kind; d < K-1 or class means
            that are not independent, which have no nearest frame; an order that diverges.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = 4 * torch.eye(3, 5)[labels] + 0.2 * noise
        >>> problem = pnc.CrossEntropyProblem(
        ...     features, labels, lambda_w=0.05, lambda_h=0.05, beta=0.5
        ... )
        >>> found = pnc.theory.cross_entropy_vicinity(problem)
        >>> found.gamma_towards < found.gamma_in < found.gamma_out
        True

    See Also:
        minimize: without the expansion. small_vicinity: with the squared loss.

    Source: first-order expansion at Zhu et al. 2021's optimum: docs §4.9.
    """
    at_least(order, 1, "order")
    scalars, reference = _scalars_of(problem, _checked_strengths(problem)), problem.statistics
    centred = replace(reference, means=reference.means - problem.shift)
    frame = nearest_frame(centred, bias=True)
    near = NearSamples.of(frame, centred, problem.samples.features, problem.labels)
    first = near_optimum(near, scalars)
    layer = torch.cat([first.weight, first.bias[:, None]], dim=1) if problem.bias else first.weight
    here = CrossEntropyPoint(problem.samples, layer[None])
    for _ in range(order - 1):
        here = _refined(here, near, scalars)
    following = _refined(here, near, scalars)
    if not following.weight.isfinite().all():
        raise ValueError(
            f"order must be lower here, got {order}: the features are too far from collapse, and "
            "the expansion diverges; use minimize"
        )
    if order == 1:
        means = first.means + scalars.off_span * problem.shift
        statistics = ClassStatistics(reference.counts, means, first.within, first.variances)
    else:
        statistics = moved_statistics(problem, here)
    remainder = _remainder(problem, here, statistics, following)
    certificate = certificate_of(here, problem.anchor_cost)
    return CrossEntropyVicinity(
        problem=problem,
        order=order,
        weight=here.last_layer,
        bias=outer_bias(problem, here) if problem.bias else None,
        statistics=statistics,
        frame=near.simplex,
        size=scalars.size.item(),
        distance=_distance(near, scalars.size.item()),
        gamma_in=scalars.kept.between.item(),
        gamma_towards=scalars.kept.towards.item(),
        gamma_out=scalars.off_span.item(),
        remainder=remainder,
        certificate=certificate,
        status=status_of(remainder, certificate),
        _point=here,
        _nearest=near,
        _scalars=scalars,
    )


def _checked_strengths(problem: CrossEntropyProblem) -> Float64[Tensor, "3"]:
    """λ_W, λ_H, β of a problem whose optimum near collapse this is about; ValueError of others."""
    positive(problem.lambda_h, "lambda_h")
    positive(problem.beta, "beta")
    if problem.class_weights is not None:
        raise ValueError(
            "class_weights have no collapsed optimum in closed form, got "
            f"{list(problem.class_weights)}; leave them out, or use minimize"
        )
    c0, limit = math.sqrt(problem.lambda_w * problem.lambda_h), 1 - problem.label_smoothing
    if c0 >= limit:
        raise ValueError(
            f"sqrt(lambda_w * lambda_h) must be < {limit:g}, got {c0:g}; from there on the optimum "
            "is zero"
        )
    return problem.features.new_tensor([getattr(problem, name) for name in HYPERPARAMETERS])


def _scalars_of(problem: CrossEntropyProblem, strengths: Float64[Tensor, "3"]) -> NearScalars:
    decay = float(problem.bias_decay) if problem.bias else None
    return near_scalars(strengths, problem.num_classes, problem.label_smoothing, decay)


def _refined(
    point: CrossEntropyPoint, near: NearSamples, scalars: NearScalars
) -> CrossEntropyPoint:
    """(W, b) - ∇²g₀⁻¹∇g(W, b), with the Hessian at collapse: one order more."""
    k, j, gradient = len(near.simplex), near.projector, -point.gradient[0]
    own = gradient[:, : near.simplex.shape[1]] * k
    inside = own @ near.simplex.mT
    bias = k * gradient[:, -1] if point.samples.has_bias else inside.new_zeros(k)
    pull = LayerChange(j @ inside, near.outside(own), bias - bias.mean())
    change = solve_near(scalars, pull, j)
    rows = change.inside @ near.simplex + change.outside
    if point.samples.has_bias:
        rows = torch.cat([rows, change.bias[:, None]], dim=1)
    return replace(point, weight=point.weight + rows, start=point.state.residuals)


def _distance(near: NearSamples, size: float) -> float:
    """|H0 - mR|/|mR|, classes weighted equally."""
    k = len(near.simplex)
    gap = near.centred.means - size * near.simplex
    return math.sqrt((gap.square().sum() + k * near.centred.within.trace()) / (k - 1)) / size


def _remainder(
    problem: CrossEntropyProblem,
    point: CrossEntropyPoint,
    statistics: ClassStatistics,
    following: CrossEntropyPoint,
) -> dict[str, float]:
    """What the next order changes."""
    better, drift = moved_statistics(problem, following), point.samples.gamma * problem.shift
    return {
        "weight": relative_error(point.last_layer, following.last_layer),
        "means": relative_error(statistics.means - drift, better.means - drift),
        "within": relative_error(statistics.within, better.within),
    }

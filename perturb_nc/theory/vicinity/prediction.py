"""The optimum of (1) for features near collapse, without solving anything."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.metrics.table import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.certificate import Certificate, certify_point
from perturb_nc.theory.hyperparameter_response import HyperparameterResponse, response_at
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.status import Status
from perturb_nc.theory.vicinity.classes import UnequalClasses, nearly_balanced, unequal_classes
from perturb_nc.theory.vicinity.coefficients import Coefficients, coefficients
from perturb_nc.theory.vicinity.derivatives import derivatives
from perturb_nc.theory.vicinity.frame import NearestFrame, nearest_frame
from perturb_nc.validation import ArrayLike, as_features, as_labels, at_least, positive

Rows = Float64[Tensor, "K d"]
SMALL = 0.1  # the largest relative remainder that counts as small


@dataclass(frozen=True, eq=False, repr=False)
class SmallVicinity(Summarised):
    """What (1) makes of features near collapse, to an order in the distance from it.

    Attributes:
        problem: what it predicts the optimum of.
        order: of the expansion in B - √ρI, Σ_W0 and π - 1/K.
        weight: W, (K, d).
        bias: b, (K,), or None in the model without bias.
        statistics: class statistics of H, of the same kind as measured ones.
        frame: the frame nearest to the reference class means as rows, (K, d): orthonormal, with
            a bias a simplex of Gram matrix I - 11ᵀ/K. The collapsed optimum is √ρ times it. Of
            classes that are not nearly balanced rows are longer the larger the class.
        size: √ρ; for unequal classes the root mean square over samples of that optimum, times
            √(K/(K-1)) with a bias.
        distance: |H0 - √ρ frame| / |√ρ frame| (centred, with a bias), classes weighted equally
            where they are nearly balanced.
        gamma_in, gamma_out: what is left of deviations within classes in the span of the frame
            and off it, β/(β + √(λ_H/λ_W)) and β/(β + λ_H); in the span the mean over directions,
            where classes are not nearly balanced.
        remainder: estimate (no bound) of the relative errors of weight, means and within: how far
            the next order is from this one.
        certificate: of the weight. Its gap bounds what the true optimum can gain in f, at any
            distance from collapse.
        status: CONVERGED, or why this is no small vicinity (`is_small` is False).
    """

    problem: NearCollapseProblem
    order: int
    weight: Rows
    bias: Float64[Tensor, "K"] | None
    statistics: ClassStatistics
    frame: Rows
    size: float
    distance: float
    gamma_in: float
    gamma_out: float
    remainder: dict[str, float]
    certificate: Certificate
    status: Status
    _nearest: NearestFrame | UnequalClasses
    _scalars: Coefficients | None

    @property
    def is_small(self) -> bool:
        """Whether remainder and certificate let one rely on this."""
        return self.status is Status.CONVERGED

    def _summary(self) -> dict[str, object]:
        return {
            **self.problem._summary(),
            "order": self.order,
            "distance": self.distance,
            "gamma_in": self.gamma_in,
            "gamma_out": self.gamma_out,
            "nc1_trace": self.metrics.nc1_trace,
            "nc1": self.metrics.nc1,
            "nc2_etf": self.metrics.nc2_etf,
            "remainder": self.remainder,
            "status": self.status,
            "certificate": str(self.certificate),
        }

    @cached_property
    def metrics(self) -> CollapseMetrics:
        """Every collapse metric of `statistics`, read by `weight`."""
        return collapse_metrics(self.statistics, self.weight)

    @cached_property
    def derivatives(self) -> HyperparameterResponse:
        """Derivatives in λ_W, λ_H and β, those of the closed form of first order at any `order`.

        From those of the optimum (`hyperparameter_response`) they differ by the first order in the
        distance: λ_W and λ_H move √ρ, and so what the expansion is in. In β it is the second.
        Where classes are not nearly balanced they are those of the optimum, as if the weight were
        its.
        """
        if isinstance(self._nearest, UnequalClasses) or self._scalars is None:
            return response_at(self.problem.at(self.weight))
        return derivatives(self._nearest, self._scalars, self.problem)

    def features(self, reference_features: ArrayLike, labels: ArrayLike) -> Float64[Tensor, "N d"]:
        """Predicted features of given samples: class mean + Γ(h0 - μ0).

        From order 2 on those that are optimal for the weight. With cross-entropy Γ differs from
        class to class.

        Args:
            reference_features: (N, d), those of the statistics or others.
            labels: (N,) in 0..K-1.

        Raises:
            ValueError: wrong shapes, NaN or infinity, labels out of range.
        """
        k, d = self.weight.shape
        x = as_features(reference_features, name="reference_features", dim=d)
        y = as_labels(labels, len(x), num_classes=k).to(self.weight.device)
        return self._features(x.to(self.weight), y)

    def _features(self, x: Float64[Tensor, "n d"], y: Int64[Tensor, "n"]) -> Float64[Tensor, "n d"]:
        if self.order > 1 or isinstance(self._nearest, UnequalClasses):
            return self.problem.at(self.weight).features(x, y)
        deviations = x - self.problem.statistics.means[y]
        inside = (deviations @ self.frame.mT) @ self.frame
        kept = self.gamma_out * deviations + (self.gamma_in - self.gamma_out) * inside
        return self.statistics.means[y] + kept


def small_vicinity(
    statistics: ClassStatistics,
    *,
    lambda_w: float,
    lambda_h: float,
    beta: float,
    bias: bool = False,
    order: int = 1,
) -> SmallVicinity:
    """The optimum of (1) for features near collapse, in closed form.

    With R the frame nearest to the class means, M0 = RB, and √ρ, w the norms of class means and
    rows of W at collapse, to first order in B - √ρI, Σ_W0 and π - 1/K:

        M = R(√ρ I + δ) + D⊥,   W = (wI + v)Rᵀ + V⊥,   Σ_W = ΓΣ_W0Γ,

    with δ, v, D⊥, V⊥ sums of B - √ρI, RᵀΣ_W0R, RᵀΣ_W0(I - RRᵀ) and the imbalance, whose
    coefficients are scalars (`coefficients`). Every order more is one step W - ∇²g₀⁻¹∇g(W) with
    the Hessian ∇²g₀ at collapse, three scalars; means and Σ_W are then exact for that weight.

    Args:
        statistics: class statistics of H0. Classes within a quarter of N/K samples are nearly
            balanced, and π - 1/K is expanded in; others are taken class by class.
        lambda_w, lambda_h, beta: all > 0, with c0 = √(λ_W λ_H) < 1.
        bias: whether the last layer has a bias; collapse is then onto a simplex.
        order: of the expansion, 1 or more; away from collapse more is not better.

    Returns:
        SmallVicinity, whose status says where the features are too far from collapse for it.

    Raises:
        ValueError: arguments out of range; c0 >= 1, where the optimum is zero; classes so small
            that it has nothing in their direction (λ_Wλ_H >= Kπ_k without bias); d < K (K-1 with a
            bias) or class means that are not independent, which have no nearest frame; an order
            that diverges.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> found = pnc.small_vicinity(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        >>> found.gamma_in < found.gamma_out < 1  # deviations shrink most between the classes
        True
        >>> found.status.name
        'CONVERGED'

    See Also:
        minimize: without the expansion, at any distance. small_vicinity_batch: many settings.
        plot_vicinity: its picture.

    Source: first-order expansion of Tirer et al. 2023, Theorem 4.1, at Theorem 2.1: docs §4.7.
    """
    at_least(order, 1, "order")
    problem = NearCollapseProblem(
        statistics,
        lambda_w=lambda_w,
        lambda_h=positive(lambda_h, "lambda_h"),
        beta=positive(beta, "beta"),
        bias=bias,
    )
    if (square := problem.lambda_w * problem.lambda_h) >= 1:
        raise ValueError(
            f"lambda_w * lambda_h must be < 1, got {square:g}; from 1 on the optimum is zero"
        )
    if not nearly_balanced(statistics):
        return _class_by_class(problem, order)
    frame = nearest_frame(statistics, bias)
    w, h, b = statistics.means.new_tensor([problem.lambda_w, problem.lambda_h, problem.beta])
    scalars = coefficients(w, h, b, statistics.num_classes)
    weight = frame.contrasts @ frame.mixed(*(part.value for part in scalars.weight))
    refine = partial(_refined, frame=frame, scalars=scalars)
    here, following = _expanded(problem, weight, order, refine)
    means, within = here.means, here.within
    if order == 1:
        own = frame.of_classes(frame.mixed(*(part.value for part in scalars.means)))
        means = own + here.drift
        within = frame.filtered(*(part.value for part in scalars.attenuations))
    moved = {"weight": here.weight, "means": means - here.drift, "within": within}
    return _predicted(
        problem,
        order,
        here,
        statistics.moved(means, within),
        _remainder(moved, following),
        frame=frame.contrasts @ frame.rows,
        size=scalars.size.value.item(),
        distance=_distance(frame, scalars.size.value.item()),
        gamma_in=scalars.gamma_in.value.item(),
        _nearest=frame,
        _scalars=scalars,
    )


def _class_by_class(problem: NearCollapseProblem, order: int) -> SmallVicinity:
    """Every order, the first too, a step from the collapsed optimum of classes of these sizes."""
    nearest = unequal_classes(problem)
    first = nearest.refined(problem.at(nearest.weight))
    here, following = _expanded(problem, first, order, nearest.refined)
    own = {"weight": here.weight, "means": here.own_means, "within": here.within}
    directions = len(nearest.lengths)
    size = nearest.lengths.norm().item() * math.sqrt(problem.statistics.num_classes / directions)
    return _predicted(
        problem,
        order,
        here,
        problem.statistics.moved(here.means, here.within),
        _remainder(own, following),
        frame=nearest.means / size,
        size=size,
        distance=nearest.distance,
        gamma_in=nearest.attenuations.mean().item(),
        _nearest=nearest,
        _scalars=None,
    )


def _predicted(
    problem: NearCollapseProblem,
    order: int,
    here: ReducedPoint,
    statistics: ClassStatistics,
    remainder: dict[str, float],
    **found: Any,
) -> SmallVicinity:
    """The result at a weight, with its certificate."""
    certificate = certify_point(here)
    return SmallVicinity(
        problem=problem,
        order=order,
        weight=here.weight,
        bias=here.bias if problem.bias else None,
        statistics=statistics,
        gamma_out=problem.beta / (problem.beta + problem.lambda_h),
        remainder=remainder,
        certificate=certificate,
        status=status_of(remainder, certificate),
        **found,
    )


def _expanded(
    problem: NearCollapseProblem,
    weight: Rows,
    order: int,
    refine: Callable[[ReducedPoint], Rows],
) -> tuple[ReducedPoint, ReducedPoint]:
    """The points of this order and the next, from the weight of the first."""
    here = problem.at(weight)
    for _ in range(order - 1):
        here = problem.at(refine(here))
        if not (here.means.isfinite().all() and here.within.isfinite().all()):
            raise ValueError(
                f"order must be lower here, got {order}: the features are too far from collapse, "
                "and the expansion diverges; use minimize"
            )
    return here, problem.at(refine(here))


def _refined(point: ReducedPoint, frame: NearestFrame, scalars: Coefficients) -> Rows:
    """W - ∇²g₀⁻¹∇g(W), with the Hessian at collapse: one order more."""
    gradient = frame.contrasts.mT @ point.gradient
    inside = gradient @ frame.rows.mT
    off = gradient - inside @ frame.rows
    even, odd = 0.5 * (inside + inside.mT), 0.5 * (inside - inside.mT)
    change = scalars.symmetric.value * even + scalars.rotation.value * odd
    step = change @ frame.rows + scalars.off_span.value * off
    return point.weight - frame.contrasts @ step


def _distance(frame: NearestFrame, size: float) -> float:
    rank = len(frame.stretch)
    gap = frame.stretch - size * torch.diag(frame.stretch.new_ones(rank))
    within = frame.reference.num_classes * frame.reference.within.trace()
    return math.sqrt((gap.square().sum() + within) / rank) / size


def _remainder(found: dict[str, Tensor], following: ReducedPoint) -> dict[str, float]:
    """What the next order changes."""
    better = {
        "weight": following.weight,
        "means": following.own_means,
        "within": following.within,
    }
    return {name: relative_error(value, better[name]) for name, value in found.items()}


def relative_error(value: Tensor, better: Tensor) -> float:
    """Difference over the size of the better value; 0 for two zeros."""
    gap, scale = torch.linalg.norm(better - value).item(), torch.linalg.norm(better).item()
    return 0.0 if gap == 0 else gap / scale if scale > 0 else math.inf


def status_of(remainder: dict[str, float], certificate: Certificate) -> Status:
    """CONVERGED, or what is not small enough."""
    if not max(remainder.values()) <= SMALL:  # NaN too
        return Status.NOT_SMALL
    if not certificate.spectral_ratio <= 1:
        return Status.NOT_CERTIFIED
    return Status.CONVERGED

"""The near-collapse model with cross-entropy: problem (1) with the loss that people train with."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.summary import Summarised
from perturb_nc.theory.cross_entropy.elimination import Targets
from perturb_nc.theory.cross_entropy.loss import CrossEntropy
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint, Samples, descend_convex
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.regularization import Regularization
from perturb_nc.validation import (
    ArrayLike,
    affordable,
    as_features,
    as_labels,
    as_matrix,
    nonnegative,
    positive,
)


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropyProblem(Summarised):
    """Features H near reference features H0, and the last layer (W, b) trained on cross-entropy.

        f(W, b, H; H0) = (1/N) Σ ω_{y_i} CE(Wh_i + b, y_i) + λ_W/(2K) |W|² + λ_H/(2N) |H|²
                         + β/(2N) |H - H0|²

    the near-collapse model (1) of `NearCollapseProblem` with its squared loss replaced, and with
    the same λ_W, λ_H, β. Cross-entropy does not close on class statistics: the problem keeps the
    samples, and the N features are eliminated one by one (see
    `perturb_nc.theory.cross_entropy.elimination`), in O(NKd) an evaluation.

    Args:
        features: reference features H0, (N, d); kept in float64 on their device.
        labels: (N,) in 0..K-1, every class present.
        lambda_w: λ_W > 0. A network with weight decay wd on its last layer has λ_W = K·wd.
        lambda_h: λ_H >= 0, not 0 together with beta.
        beta: β >= 0; at 0 this is the unconstrained features model and H0 does not matter.
        bias: whether the last layer has a bias b.
        bias_decay: whether b is penalised as W is, with λ_W/(2K) |b|².
        label_smoothing: ε in [0, 1): targets (1-ε) e_y + (ε/K) 1 in place of e_y.
        class_weights: ω, one positive weight a class; f is divided by N, not by Σ ω as in torch.

    Raises:
        ValueError: bad features or labels; parameters that are negative, not finite, or leave H
            unbounded.

    Source: docs §4.9; Tirer et al. 2023, eq. (3), for the model.
    """

    features: ArrayLike
    labels: ArrayLike
    _: KW_ONLY
    lambda_w: float
    lambda_h: float
    beta: float
    bias: bool = True
    bias_decay: bool = False
    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        x = as_features(self.features).double()
        put: dict[str, Any] = {"features": x, "labels": as_labels(self.labels, len(x)).to(x.device)}
        put |= vars(Regularization(self.lambda_w, self.lambda_h, self.beta).bounded())
        put["label_smoothing"] = nonnegative(self.label_smoothing, "label_smoothing")
        for name, value in put.items():
            object.__setattr__(self, name, value)
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be < 1, got {self.label_smoothing}")
        if self.bias_decay and not self.bias:
            raise ValueError("bias_decay is for a model with a bias; give bias=True")
        if self.class_weights is not None:
            k, given = self.num_classes, len(self.class_weights)
            if given != k:
                raise ValueError(f"class_weights must have one weight a class, {k}, got {given}")
            for i, weight in enumerate(self.class_weights):
                positive(weight, f"class_weights[{i}]")
        k = int(self.labels.max()) + 1
        outputs = 16 * len(x) * k  # and as much for their derivatives
        work = f"cross-entropy on {len(x)} samples of num_classes = {k}"
        affordable(outputs, work, "leave out or merge classes", x.device)
        self.samples  # noqa: B018 - refuses empty classes; later changes of the array change nothing

    @cached_property
    def statistics(self) -> ClassStatistics:
        """Class statistics of H0."""
        return ClassStatistics.from_features(self.features, self.labels)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.statistics.num_classes

    def _summary(self) -> dict[str, object]:
        n, d = self.features.shape
        sizes = {"num_classes": self.num_classes, "dim": d, "num_samples": n}
        given = super()._summary()
        return sizes | {k: v for k, v in given.items() if k not in ("features", "labels")}

    @cached_property
    def shift(self) -> Float64[Tensor, "d"]:
        """What the features are centred on, their mean where b is free, 0 elsewhere."""
        mean = self.statistics.priors @ self.statistics.means
        return mean if self.bias and not self.bias_decay else torch.zeros_like(mean)

    @cached_property
    def samples(self) -> Samples:
        """The model with W = (W, b) as one matrix."""
        c, decay = self.lambda_h + self.beta, self.lambda_w / self.num_classes
        penalties = self.features.new_full((self.features.shape[1] + self.bias,), decay)
        if self.bias and not self.bias_decay:
            penalties[-1] = 0.0
        centred = self.features - self.shift
        moment = self.statistics.second_moment - torch.outer(self.shift, self.shift)
        targets = self.targets(self.labels)
        return Samples(centred, targets, self.beta / c, 1 / c, penalties, moment)

    def targets(self, labels: Int64[Tensor, "n"]) -> Targets:
        """(1-ε) e_y + (ε/K) 1 and ω_y."""
        k, like = self.num_classes, self.features
        rows = like.new_full((len(labels), k), self.label_smoothing / k)
        rows.scatter_add_(
            1, labels[:, None], torch.full_like(rows[:, :1], 1 - self.label_smoothing)
        )
        if self.class_weights is None:
            weights = like.new_ones(len(labels), 1)
        else:
            weights = like.new_tensor(list(self.class_weights))[labels][:, None]
        return Targets(CrossEntropy(), rows, weights)

    @cached_property
    def anchor_cost(self) -> float:
        """βλ_H/(2cN) |H0|², the part of f that no last layer can change."""
        size = self.statistics.second_moment.trace().item()
        return self.beta * self.lambda_h / (2 * (self.lambda_h + self.beta)) * size

    def at(
        self, weight: Float64[Tensor, "K d"], bias: Float64[Tensor, "K"] | None = None
    ) -> CrossEntropyPoint:
        """The problem at W with H (and b, where it is not given) at their optimum."""
        if not self.bias:
            return CrossEntropyPoint(self.samples, weight[None])
        # b of centred features; where it is not given 0 is a start that an offset does not spoil.
        zero = weight.new_zeros(len(weight))
        inner = zero if bias is None else bias + self.samples.gamma * (weight @ self.shift)
        point = CrossEntropyPoint(self.samples, torch.cat([weight, inner[:, None]], 1)[None])
        if bias is not None:
            return point
        found = descend_convex(replace(point, movable=self._column))
        return replace(found, movable=None, start=found.state.residuals)

    @property
    def _column(self) -> Float64[Tensor, "m"]:
        """What holds W and lets b move."""
        column = torch.zeros_like(self.samples.penalties)
        column[-1] = 1.0
        return column

    def objective(self, weight: ArrayLike) -> float:
        """g(W) = min over H (and b) of f(W, b, H; H0)."""
        return self.at(self.checked_weight(weight)).excess.item() + self.anchor_cost

    def gradient(self, weight: ArrayLike) -> Float64[Tensor, "K d"]:
        """∇g(W) = QHᵀ/N + (λ_W/K)W at the optimal H and b, with q = ω(p - t)."""
        w = self.checked_weight(weight)
        return self.at(w).gradient[0, :, : w.shape[1]]

    def hessian_vector_product(
        self, weight: ArrayLike, direction: ArrayLike
    ) -> Float64[Tensor, "K d"]:
        """∇²g(W)[V] at the optimal H and b, exact: b moves along."""
        w, v = self.checked_weight(weight), self.checked_weight(direction, "direction")
        if not self.bias:
            return self.at(w).hessian_vector_product(v[None])[0]
        point = self.at(w)
        wide = torch.nn.functional.pad(v, (0, 1))[None]
        column = replace(point, movable=self._column)
        pull = column.hessian_vector_product(wide)
        wide = wide + solve_hessian(column, -pull, 1e-13).solution
        return point.hessian_vector_product(wide)[0, :, :-1]

    def checked_weight(self, weight: ArrayLike, name: str = "weight") -> Float64[Tensor, "K d"]:
        """A weight-shaped argument as a finite float64 tensor on the device of the features."""
        shape = (self.num_classes, self.features.shape[1])
        return as_matrix(weight, shape, name=name).to(self.features.device)

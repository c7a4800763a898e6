"""The deep unconstrained features model as a torch module: many independent runs in one batch.

Model (2) of `deep_collapse`, with the features H_1 as parameters. R runs - seeds, regularisations,
depths - share one leading dimension, so that one step of all of them is one batched matrix product
a layer; a run alone gives what it gives in a batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor, nn

from perturb_nc.duality_metrics import dnc3
from perturb_nc.frame_metrics import dnc2
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.deep.collapse import Parameters
from perturb_nc.validation import ArrayLike, as_features, as_labels, as_tensor, at_least
from perturb_nc.within_metrics import nc1_trace

Runs = Float64[Tensor, "R"]
Points = Float64[Tensor, "R P"]
_CACHE_BYTES = 2**22  # of points; measured best of 2^18..2^30 at width 64


@dataclass(frozen=True, eq=False)
class DeepProblem:
    """(2) for R runs, each a point of P numbers: H_1 (N×d_1), then W_l (d_{l+1}×d_l), all flat.

    The last depth layers of a run are active; what comes before passes H_1 on unchanged, with no
    activation, no penalty and no gradient. No checks: `DeepUFM` builds it.
    """

    targets: Float64[Tensor, "N K"]
    widths: tuple[int, ...]
    lambdas: Float64[Tensor, "R L"]
    lambda_h: Runs
    active: Bool[Tensor, "R L"]
    relu: bool
    anchors: Float64[Tensor, "N d"] | None
    beta: Runs

    def take(self, runs: Int64[Tensor, "r"]) -> "DeepProblem":
        """The same for some of the runs."""
        names = ("lambdas", "lambda_h", "active", "beta")
        return replace(self, **{name: getattr(self, name)[runs] for name in names})

    @cached_property
    def _mixed(self) -> bool:
        return not bool(self.active.all())

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Of H_1, W_1, …, W_L."""
        samples, k = self.targets.shape
        out = [(b, a) for a, b in pairwise((*self.widths, k))]
        return [(samples, self.widths[0]), *out]

    def split(self, points: Points) -> list[Tensor]:
        """Views of H_1, W_1, …, W_L in points."""
        parts = points.split([a * b for a, b in self.shapes], dim=1)
        return [p.unflatten(1, shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def hidden(self, features: Float64[Tensor, "R N d"], weights: Sequence[Tensor]) -> list[Tensor]:
        """Inputs of W_1..W_L - H_1, σ(H_2), …, σ(H_L) - and the outputs."""
        values = [features]
        for layer, weight in enumerate(weights):
            h = values[-1] @ weight.mT
            if layer < len(weights) - 1:
                h = h.relu() if self.relu else h
                if self._mixed:
                    h = torch.where(self.active[:, layer, None, None], h, values[-1])
            values.append(h)
        return values

    def objective(self, features: Float64[Tensor, "R N d"], weights: Sequence[Tensor]) -> Runs:
        """f of every run; differentiable."""
        return self._objective(features, weights, self.hidden(features, weights)[-1])

    def _objective(self, features: Tensor, weights: Sequence[Tensor], outputs: Tensor) -> Runs:
        value = _squares(outputs - self.targets) / len(self.targets)
        value = value + self.lambda_h * _squares(features)
        if self.anchors is not None:
            value = value + self.beta * _squares(features - self.anchors)
        for decay, weight in zip(self.lambdas.unbind(1), weights, strict=True):
            value = value + decay * _squares(weight)
        return 0.5 * value

    @torch.no_grad()
    def value_and_gradient(self, points: Points) -> tuple[Runs, Points]:
        """f and ∇f of every run. The derivative of ReLU at 0 is taken as 0."""
        features, *weights = self.split(points)
        gradient, outputs = self._gradient(points)
        return self._objective(features, weights, outputs), gradient

    @torch.no_grad()
    def descend(self, points: Points, rate: float, steps: int) -> None:
        """Steps of gradient descent, in place.

        On the CPU a few runs at a time, so that they stay in its cache from step to step.
        """
        block = len(points)
        if points.device.type == "cpu":
            block = max(1, _CACHE_BYTES // (8 * points.shape[1]))
        for rows in torch.arange(len(points), device=points.device).split(block):
            part, own = self.take(rows), points[rows[0] : rows[-1] + 1]
            for _ in range(steps):
                own.sub_(part._gradient(own)[0], alpha=rate)

    def _gradient(self, points: Points) -> tuple[Points, Float64[Tensor, "R N K"]]:
        """∇f and the outputs.

        Written out, as it is the inner loop: gradients land in place, without autograd's graph.
        """
        features, *weights = self.split(points)
        gradient = torch.empty_like(points)
        features_part, *weight_parts = self.split(gradient)
        values = self.hidden(features, weights)
        back = (values[-1] - self.targets) / len(self.targets)
        for layer in range(len(weights) - 1, -1, -1):
            torch.bmm(back.mT, values[layer], out=weight_parts[layer])
            through = back @ weights[layer]
            if self._mixed and layer < len(weights) - 1:
                active = self.active[:, layer, None, None]
                weight_parts[layer].mul_(active)
                through = torch.where(active, through, back)
            weight_parts[layer].addcmul_(self.lambdas[:, layer, None, None], weights[layer])
            if self.relu and layer > 0:
                opened = values[layer] > 0
                if self._mixed:  # H_1 passed on unchanged has no activation
                    opened |= ~self.active[:, layer - 1, None, None]
                through = through * opened
            back = through
        torch.addcmul(back, self.lambda_h[:, None, None], features, out=features_part)
        if self.anchors is not None:
            features_part.addcmul_(self.beta[:, None, None], features - self.anchors)
        return gradient, values[-1]


class DeepUFM(nn.Module):
    """R runs of the deep unconstrained features model (2); parameters `features` and `weights`.

        f = 1/(2N) |W_L σ(… σ(W_1 H_1)) - Y|² + Σ_l λ_l/2 |W_l|² + λ_H/2 |H_1|² [+ β/2 |H_1 - H0|²]

    With reference features H0 it is the anchored model: a deep head on features kept near H0.
    Starts are Gaussian, from a generator per seed: W_l with variance gain²/d_l, H_1 with variance
    feature_scale² (at H0 where that is given).

    Args:
        labels: (N,) in 0..K-1, every class present. All lives on their device.
        widths: d_1..d_L, the dimensions of H_1..H_L.
        lambdas: λ_l: one value, one a layer (L,), or one a run and layer (R, L).
        lambda_h: λ_H: one value or one a run (R,).
        seeds: one a run; R is their number.
        relu: False for the linear model.
        depths: of the runs, at most L, for runs of different depths; all widths must then agree.
            The last `depth` weights of a run are its own, `lambdas` included.
        reference_features: H0, (N, d_1).
        beta: β: one value or one a run.
        gain, feature_scale: of the start.

    Raises:
        ValueError: shapes that do not fit, values out of range.

    Units: λ_l, λ_H and β as written, see `deep_penalties`. Source: Súkeník et al. 2023.
    """

    def __init__(
        self,
        labels: ArrayLike,
        widths: Sequence[int],
        *,
        lambdas: float | ArrayLike,
        lambda_h: float | ArrayLike,
        seeds: Sequence[int] = (0,),
        relu: bool = True,
        depths: Sequence[int] | None = None,
        reference_features: ArrayLike | None = None,
        beta: float | ArrayLike = 0.0,
        gain: float = 1.0,
        feature_scale: float = 1.0,
    ) -> None:
        super().__init__()
        y = as_labels(labels, len(labels))
        targets = nn.functional.one_hot(y).double()
        if not (targets.sum(0) > 0).all() or targets.shape[1] < 2:
            raise ValueError("labels must hold every class 0..K-1, and at least two")
        sizes = tuple(at_least(w, 1, "widths") for w in widths)
        depth, runs = at_least(len(sizes), 1, "the number of widths"), len(seeds)
        at_least(runs, 1, "the number of seeds")
        active = _active(depths, sizes, runs).to(y.device)
        decay = _per_run(lambdas, (runs, depth), "lambdas").to(y.device) * active
        anchors = None
        if reference_features is not None:
            anchors = as_features(reference_features, name="reference_features", dim=sizes[0])
            if len(anchors) != len(y):
                raise ValueError(
                    f"reference_features must have one row a label: {len(anchors)} for {len(y)}"
                )
            anchors = anchors.to(y.device, torch.float64)
        self.labels = y
        self.problem = DeepProblem(
            targets=targets,
            widths=sizes,
            lambdas=decay,
            lambda_h=_per_run(lambda_h, (runs,), "lambda_h").to(y.device),
            active=active,
            relu=relu,
            anchors=anchors,
            beta=_per_run(beta, (runs,), "beta").to(y.device),
        )
        starts = [
            _start(self.problem, seed, gain=gain, feature_scale=feature_scale) for seed in seeds
        ]
        features, *weights = (
            torch.stack(draws).to(y.device) for draws in zip(*starts, strict=True)
        )
        if anchors is not None:
            features = anchors.expand_as(features).clone()
        self.features = nn.Parameter(features)
        self.weights = nn.ParameterList(
            w * on[:, None, None] for w, on in zip(weights, active.unbind(1), strict=True)
        )

    @property
    def runs(self) -> int:
        """R."""
        return len(self.features)

    def forward(self) -> Float64[Tensor, "R N K"]:
        """Outputs of every run."""
        return self.problem.hidden(self.features, list(self.weights))[-1]

    def objective(self) -> Runs:
        """f of every run."""
        return self.problem.objective(self.features, list(self.weights))

    def points(self) -> Points:
        """A copy of the parameters, flat, one row a run."""
        parts = [self.features, *self.weights]
        return torch.cat([p.detach().flatten(1) for p in parts], dim=1)

    @torch.no_grad()
    def load_points(self, points: Points) -> None:
        """Set the parameters to flat ones."""
        parts = [self.features, *self.weights]
        for parameter, value in zip(parts, self.problem.split(points), strict=True):
            parameter.copy_(value)

    def load_parameters(self, parameters: Parameters) -> None:
        """Set every run to given features and weights, such as those of `DeepCollapse`."""
        features, weights = parameters
        flat = torch.cat([p.flatten() for p in (features, *weights)]).to(self.labels.device)
        self.load_points(flat.expand(self.runs, -1))

    def layers(self, run: int = 0) -> list[ClassStatistics]:
        """Class statistics of H_1, σ(H_2), …, σ(H_L), the inputs of the active weights of a run."""
        one = self.problem.take(torch.tensor([run], device=self.labels.device))
        with torch.no_grad():
            hidden = one.hidden(self.features[[run]], [w[[run]] for w in self.weights])[:-1]
        kept = [h[0] for h, on in zip(hidden, one.active[0], strict=True) if on]
        return [ClassStatistics.from_features(h, self.labels) for h in kept]

    def collapse(self, run: int = 0) -> list["LayerCollapse"]:
        """DNC metrics and ranks of every layer of a run, from H_1 on."""
        layers = self.layers(run)
        weights = [w[run].detach() for w in self.weights][-len(layers) :]
        return [
            LayerCollapse(
                dnc1=nc1_trace(s).item(),
                dnc2=dnc2(s).item(),
                dnc3=dnc3(s, w).item(),
                rank=_rank(s.means),
                weight_rank=_rank(w),
            )
            for s, w in zip(layers, weights, strict=True)
        ]


@dataclass(frozen=True)
class LayerCollapse:
    """What enters one layer of the deep model, H_1 or σ(H_l), and the weight W_l that reads it.

    dnc1, dnc2 and dnc3 as in `perturb_nc.metrics` (dnc1 is nc1_trace); rank is that of the class
    means, weight_rank that of W_l, both counting singular values above 1e-3 of the largest.
    """

    dnc1: float
    dnc2: float
    dnc3: float
    rank: int
    weight_rank: int


def _rank(matrix: Tensor) -> int:
    # Absolute too: weights on the way to zero have rank 0, not the rank of what is left.
    return int(torch.linalg.matrix_rank(matrix, rtol=1e-3, atol=1e-6))


def _squares(x: Float64[Tensor, "R a b"]) -> Runs:
    return x.square().sum((1, 2))


def _per_run(value: float | ArrayLike, shape: tuple[int, ...], name: str) -> Tensor:
    # By way of NumPy: torch would round a Python float to float32 first.
    x = as_tensor(value if torch.is_tensor(value) else np.asarray(value, float), name).double()
    try:
        full = x.expand(shape).clone()
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to {shape}, got {tuple(x.shape)}") from None
    if not ((full >= 0) & torch.isfinite(full)).all():
        raise ValueError(f"{name} must be finite and >= 0, got {full.min().item()}")
    return full


def _active(
    depths: Sequence[int] | None, widths: tuple[int, ...], runs: int
) -> Bool[Tensor, "R L"]:
    depth = len(widths)
    if depths is None:
        return torch.ones(runs, depth, dtype=torch.bool, device="cpu")
    if len(depths) != runs or not all(1 <= d <= depth for d in depths):
        raise ValueError(f"depths must be {runs} values in 1..{depth}, got {list(depths)}")
    if len(set(widths)) > 1:
        raise ValueError(f"runs of different depths need equal widths, got {widths}")
    first = depth - torch.tensor(depths, device="cpu")
    return torch.arange(depth, device="cpu") >= first[:, None]


def _start(problem: DeepProblem, seed: int, *, gain: float, feature_scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(at_least(seed, 0, "seeds"))
    draws = [
        torch.randn(s, generator=generator, dtype=torch.float64, device="cpu")
        for s in problem.shapes
    ]
    scales = [feature_scale, *(gain / w**0.5 for w in problem.widths)]
    return [scale * draw for scale, draw in zip(scales, draws, strict=True)]

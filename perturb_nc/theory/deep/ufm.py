"""The deep unconstrained features model as a torch module: many independent runs in one batch.

Model (2) of `perturb_nc.theory.deep.collapse`, with the features H_1 as parameters. R runs - seeds,
regularisations, depths - share one leading dimension, so that one step of all of them is one
batched matrix product a layer; a run alone gives what it gives in a batch.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.deep.collapse import Parameters
from perturb_nc.theory.deep.layer_collapse import LayerCollapse
from perturb_nc.theory.deep.runs import DeepProblem, Points, Runs
from perturb_nc.validation import ArrayLike, as_features, as_labels, as_tensor, at_least


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
        num_layers: of each run, at most L; by default all L. All widths must agree where it is
            given, and the last weights of a run are its own, `lambdas` included.
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
        num_layers: Sequence[int] | None = None,
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
        most, runs = at_least(len(sizes), 1, "the number of widths"), len(seeds)
        at_least(runs, 1, "the number of seeds")
        active = _active(num_layers, sizes, runs).to(y.device)
        decay = _per_run(lambdas, (runs, most), "lambdas").to(y.device) * active
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

    def collapse(self, run: int = 0) -> list[LayerCollapse]:
        """DNC metrics and ranks of every layer of a run, from H_1 on."""
        layers = self.layers(run)
        weights = [w[run].detach() for w in self.weights][-len(layers) :]
        return [LayerCollapse.of(s, w) for s, w in zip(layers, weights, strict=True)]


def _per_run(value: float | ArrayLike, shape: tuple[int, ...], name: str) -> Tensor:
    # By way of NumPy: torch would round a Python float to float32 first.
    x = as_tensor(value, name).double()
    try:
        full = x.expand(shape).clone()
    except RuntimeError:
        raise ValueError(f"{name} must broadcast to {shape}, got {tuple(x.shape)}") from None
    if not ((full >= 0) & torch.isfinite(full)).all():
        raise ValueError(f"{name} must be finite and >= 0, got {full.min().item()}")
    return full


def _active(
    num_layers: Sequence[int] | None, widths: tuple[int, ...], runs: int
) -> Bool[Tensor, "R L"]:
    most = len(widths)
    if num_layers is None:
        return torch.ones(runs, most, dtype=torch.bool, device="cpu")
    if len(num_layers) != runs or not all(1 <= n <= most for n in num_layers):
        raise ValueError(f"num_layers must be {runs} values in 1..{most}, got {list(num_layers)}")
    if len(set(widths)) > 1:
        raise ValueError(f"runs of different num_layers need equal widths, got {widths}")
    first = most - torch.tensor(num_layers, device="cpu")
    return torch.arange(most, device="cpu") >= first[:, None]


def _start(problem: DeepProblem, seed: int, *, gain: float, feature_scale: float) -> list[Tensor]:
    generator = torch.Generator().manual_seed(at_least(seed, 0, "seeds"))
    draws = [
        torch.randn(s, generator=generator, dtype=torch.float64, device="cpu")
        for s in problem.shapes
    ]
    scales = [feature_scale, *(gain / w**0.5 for w in problem.widths)]
    return [scale * draw for scale, draw in zip(scales, draws, strict=True)]

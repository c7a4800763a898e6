"""First-order response of the optimum with cross-entropy, by formula.

Notation of `perturb_nc.theory.cross_entropy.point`; a dot marks the change along changes of x, γ, κ
and the penalties Λ, and of (W, b) with them:

    e˙ = γWx˙ + γ˙Wx - κ˙WWᵀq,            q˙ = Ŝ(e˙ + e(V, v)),
    ∇²g[V, v] = -(∇g of q˙ = Ŝe˙, with the explicit γ(Qx˙ᵀ)/N + γ˙QXᵀ/N - κ˙(QQᵀ/N)W + Λ˙(W, b)),
    h˙ = γh˙0 + γ˙h0 - κ˙Wᵀq - κ(Vᵀq + Wᵀq˙).
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.table import metric_tensors
from perturb_nc.metrics.tangents import Change, metric_tangents
from perturb_nc.theory.arrays import Rows
from perturb_nc.theory.cross_entropy.loss import Logits
from perturb_nc.theory.cross_entropy.minimize import CrossEntropySolution
from perturb_nc.theory.cross_entropy.point import CrossEntropyPoint, Samples
from perturb_nc.theory.hyperparameter_response import (
    HyperparameterResponse,
    hyperparameter_response,
)
from perturb_nc.theory.isolated import NOT_ISOLATED, check_isolated
from perturb_nc.theory.newton import solve_hessian
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.response import LinearResponse, linear_response
from perturb_nc.validation import ArrayLike, as_features, as_labels


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropyResponse(LinearResponse):
    """`LinearResponse` with cross-entropy."""

    solution: CrossEntropySolution

    def weight(self, perturbation: ArrayLike) -> Float64[Tensor, "K d"]:
        """δW for a perturbation δH0 (N, d) of the reference features."""
        change = self._checked(perturbation)
        return self._moved(self.solution.point, change)[0]

    def apply(
        self, perturbation: ArrayLike, *, order: Literal["exact", "large_beta"] = "exact"
    ) -> Float64[Tensor, "N d"]:
        """δH for a perturbation δH0 (N, d) of the reference features.

        order "exact" is the derivative at this β: at fixed W it is β(cI + WᵀS_iW)⁻¹δh0_i, and W
        moves along; "large_beta" is its expansion to O(1/β), δH0 - β⁻¹N∇²L(H*)[δH0] with
        L(H) = min_{W,b} f at β = 0.
        """
        if order not in ("exact", "large_beta"):
            raise ValueError(f"order must be 'exact' or 'large_beta', got {order!r}")
        change, problem = self._checked(perturbation), self.solution.problem
        if order == "large_beta":
            pull = self._moved(self._held, change)[1]
            return change - (pull + problem.lambda_h * change) / problem.beta
        s = self.solution.point.samples
        return s.gamma * change - s.kappa * self._moved(self.solution.point, change)[1]

    def _moved(
        self, point: CrossEntropyPoint, change: Float64[Tensor, "N d"]
    ) -> tuple[Float64[Tensor, "K d"], Float64[Tensor, "N d"]]:
        """δW and δ(Wᵀq), with δx = `change`."""
        gamma, w, q = point.samples.gamma, point.last_layer, point.state.residuals
        explicit = gamma * (q.mT @ change) / len(q)
        moved, residuals = _respond(point, gamma * (change @ w.mT), explicit)
        v = moved[0, :, : w.shape[1]]
        return v, q @ v + residuals @ w

    @cached_property
    def _held(self) -> CrossEntropyPoint:
        """Ridge multinomial regression on H*: features held, γ = 1, κ = 0."""
        problem, s = self.solution.problem, self.solution.point.samples
        shift = s.gamma * problem.shift
        h = self.features - shift
        held = Samples(h, s.targets, 1.0, 0.0, s.penalties, h.mT @ h / len(h))
        return CrossEntropyPoint(held, self.solution.point.weight)


@linear_response.register(CrossEntropySolution)
def _linear_response(
    solution: CrossEntropySolution, reference_features: ArrayLike, labels: ArrayLike
) -> CrossEntropyResponse:
    """`linear_response` with cross-entropy."""
    check_isolated(solution)
    problem = solution.problem
    h0 = as_features(reference_features, name="reference_features", dim=solution.weight.shape[1])
    y = as_labels(labels, len(h0)).to(solution.weight.device)
    expected = problem.samples.features + problem.shift
    size = expected.abs().max().item()
    same = h0.shape == expected.shape and torch.equal(y, problem.labels)
    if not (same and torch.allclose(h0.to(expected), expected, rtol=0.0, atol=1e-6 * size)):
        raise ValueError(
            "reference_features and labels must be those the problem was built from; build "
            "CrossEntropyProblem from these features first"
        )
    return CrossEntropyResponse(solution, y, solution.features(h0, y))


@hyperparameter_response.register(CrossEntropySolution)
def _hyperparameter_response(solution: CrossEntropySolution) -> HyperparameterResponse:
    """`hyperparameter_response` with cross-entropy; class variances are exact, so cdnv is too."""
    check_isolated(solution)
    problem, point, k = solution.problem, solution.point, len(solution.weight)
    reference = problem.samples.features + problem.shift
    features = solution.features(reference, problem.labels)
    change = _change(solution, reference, features, check=True)
    assert isinstance(change.within, Tensor)
    values = metric_tensors(solution.statistics, solution.weight)
    metrics = metric_tangents(values, solution.statistics, solution.weight, change)
    rows = {name: tangents.tolist() for name, tangents in metrics.items()}
    decayed = point.samples.penalties > 0
    costs = (
        (decayed * point.weight.square()).sum().item() / (2 * k),
        features.square().sum().item() / (2 * len(features)),
        (features - reference).square().sum().item() / (2 * len(features)),
    )
    return HyperparameterResponse(
        weight=dict(zip(HYPERPARAMETERS, change.weight, strict=True)),
        means=dict(zip(HYPERPARAMETERS, change.means, strict=True)),
        within=dict(zip(HYPERPARAMETERS, change.within, strict=True)),
        metrics={p: {m: row[i] for m, row in rows.items()} for i, p in enumerate(HYPERPARAMETERS)},
        objective=dict(zip(HYPERPARAMETERS, costs, strict=True)),
    )


def outcome_change(solution: CrossEntropySolution) -> Change:
    """Changes of W and of the class statistics of H along λ_W, λ_H and β, a row each.

    As far as the Hessian can be solved for: nothing is raised where it is singular.
    """
    problem = solution.problem
    reference = problem.samples.features + problem.shift
    features = solution.features(reference, problem.labels)
    return _change(solution, reference, features, check=False)


def _change(
    solution: CrossEntropySolution,
    reference: Float64[Tensor, "N d"],
    features: Float64[Tensor, "N d"],
    *,
    check: bool,
) -> Change:
    moves = [_along(solution, reference, name, check=check) for name in HYPERPARAMETERS]
    return _statistics_change(solution, features, moves)


def _along(
    solution: CrossEntropySolution, reference: Float64[Tensor, "N d"], name: str, *, check: bool
) -> tuple[Float64[Tensor, "K d"], Float64[Tensor, "N d"]]:
    """dW and dH along one hyper-parameter."""
    point, problem = solution.point, solution.problem
    s, w, q = point.samples, point.last_layer, point.state.residuals
    beta, c = float(name == "beta"), float(name != "lambda_w")
    gamma, kappa = (beta - s.gamma * c) * s.kappa, -c * s.kappa**2
    explicit = gamma * point.residual_overlap - kappa * (point.residual_moment[0] @ w)
    decay = torch.zeros_like(point.weight)
    if name == "lambda_w":
        decay = (s.penalties > 0) * point.weight / problem.num_classes
    pull = gamma * (s.features @ w.mT) - kappa * (q @ (w @ w.mT))
    moved, residuals = _respond(point, pull, explicit, decay, check=check)
    v = moved[0, :, : w.shape[1]]
    own = gamma * reference - kappa * (q @ w) - s.kappa * (q @ v + residuals @ w)
    return v, own


def _respond(
    point: CrossEntropyPoint,
    pull: Logits,
    explicit: Float64[Tensor, "K p"],
    decay: Rows | None = None,
    *,
    check: bool = True,
) -> tuple[Rows, Logits]:
    """(V, v) and q˙ for e˙ = pull and the explicit changes of ∇g.

    ValueError at a singular ∇²g, if that is checked.
    """
    forcing = point.residual_change(point.state.curve(pull))
    forcing = forcing + torch.nn.functional.pad(explicit, (0, point.samples.has_bias))
    forcing = point._freed(forcing if decay is None else forcing + decay)
    moved = solve_hessian(point, -forcing, 1e-13).solution
    missed = (forcing + point.hessian_vector_product(moved)).norm()
    if check and not missed <= 1e-8 * forcing.norm():
        raise ValueError(NOT_ISOLATED)
    return moved, point.state.curve(pull + point.shift(moved[0]))


def _statistics_change(
    solution: CrossEntropySolution,
    features: Float64[Tensor, "N d"],
    moves: list[tuple[Float64[Tensor, "K d"], Float64[Tensor, "N d"]]],
) -> Change:
    """What changes of W and H do to the class statistics, one row a move."""
    y, s = solution.problem.labels, solution.statistics
    deviations, counts = features - s.means[y], s.counts[:, None].double()
    means, within, variances = [], [], []
    for _, own in moves:
        mean = torch.zeros_like(s.means).index_add_(0, y, own) / counts
        spread = own - mean[y]
        half = deviations.mT @ spread / len(y)
        product = (deviations * spread).sum(1)
        means.append(mean)
        within.append(half + half.mT)
        variance = torch.zeros_like(s.class_variance).index_add_(0, y, 2 * product)
        variances.append(variance / counts[:, 0])
    weights = torch.stack([weight for weight, _ in moves])
    return Change(torch.stack(means), torch.stack(within), torch.stack(variances), weights)

"""The cross-entropy model at a last layer (W, b), with the features at their optimum.

With γ = β/c, κ = 1/c, centred reference features x and residuals q of `elimination`

    h = γx - κWᵀq,                        e(V, v) = γVx + v - κ(VWᵀ + WVᵀ)q,      dq = Ŝe
    ∇_W g  = Σ qhᵀ/N + (λ_W/K)W,          ∇_b g = Σ q/N + λ_b b
    ∇²g[V, v] = (Σ(γ dq xᵀ - κ(dq qᵀ + q dqᵀ)W - κ qqᵀV)/N + (λ_W/K)V,  Σ dq/N + λ_b v)

H is never formed: a product costs two passes over x, O(NKd). W and b are one matrix (K, D), b in
its last column where there is one; a leading dimension of 1 makes it a batch, as the solver of
`perturb_nc.theory.newton` has it. At κ = 0, γ = 1 the features are free of W: ridge multinomial
regression on x.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from perturb_nc.theory.arrays import cholesky, relative, total
from perturb_nc.theory.cross_entropy.elimination import Eliminated, Targets, eliminate
from perturb_nc.theory.cross_entropy.loss import Logits
from perturb_nc.theory.line_search import line_search
from perturb_nc.theory.newton import solve_hessian

# float64, but for the twin of a point that Newton's directions are found with.
Rows = Float[Tensor, "... K d"]
Square = Float[Tensor, "... K K"]
Scalar = Float[Tensor, "..."]
_STEPS = 100
_ALIKE = 2.0  # roots of the mean curvature that one preconditioner serves


@dataclass(frozen=True, eq=False)
class Samples:
    """What the model is about, all but the last layer.

    Attributes:
        features: x, (N, d): H0, centred where b is free.
        targets: what the loss compares to.
        gamma, kappa: β/c and 1/c.
        penalties: λ_W/K for every column of W, then λ_b if there is a bias, (D,).
        moment: XXᵀ/N.
    """

    features: Float[Tensor, "N d"]
    targets: Targets
    gamma: float
    kappa: float
    penalties: Float[Tensor, "m"]
    moment: Float[Tensor, "d d"]

    @cached_property
    def single(self) -> "Samples":
        """The same in float32."""
        arrays = {name: getattr(self, name).float() for name in ("features", "penalties", "moment")}
        return replace(self, targets=self.targets.single, **arrays)

    @property
    def has_bias(self) -> bool:
        """Whether the last column of a weight is b."""
        return len(self.penalties) > self.features.shape[1]

    @property
    def has_gauge(self) -> bool:
        """Whether b is free up to a constant."""
        free = self.has_bias and self.penalties[-1].item() == 0
        return free and self.targets.loss.only_differences


@dataclass(frozen=True, eq=False)
class CrossEntropyPoint:
    """The model at `weight`, (1, K, D).

    start: q of a neighbour, to start from. movable: 1 for the columns of the weight that vary, 0
    for those held fixed; all vary by default.
    """

    samples: Samples
    weight: Float[Tensor, "1 K m"]
    start: Logits | None = None
    movable: Float[Tensor, "m"] | None = None

    @cached_property
    def single(self) -> "CrossEntropyPoint":
        """The same in float32, for products whose last digits do not matter."""
        movable = None if self.movable is None else self.movable.float()
        twin = CrossEntropyPoint(self.samples.single, self.weight.float(), movable=movable)
        known = ("state", "residual_moment", "residual_overlap")
        vars(twin).update({name: _single(getattr(self, name)) for name in known})
        return twin

    def members(self, rows: Tensor) -> "CrossEntropyPoint":
        """The batch of one."""
        return self

    @property
    def layer(self) -> Float[Tensor, "1 K d"]:
        """W, as a batch of one."""
        return self.weight[..., : self.samples.features.shape[1]]

    @property
    def last_layer(self) -> Float[Tensor, "K d"]:
        """W."""
        return self.layer[0]

    @property
    def scale(self) -> str:
        """Sizes to name where float64 does not suffice."""
        size = self.samples.features.abs().max().item()
        return f"features of size {size:.1e}, lambda_w/K = {self.samples.penalties[0].item():g}"

    @cached_property
    def bias(self) -> Float[Tensor, "K"]:
        """b, of the centred features; 0 without bias."""
        w = self.weight[0]
        return w[:, -1] if self.samples.has_bias else torch.zeros_like(w[:, 0])

    @cached_property
    def _anchors(self) -> Logits:
        """γWx + b."""
        s = self.samples
        return torch.addmm(self.bias, s.features, self.last_layer.mT, alpha=s.gamma)

    @cached_property
    def factor(self) -> Float[Tensor, "K r"]:
        """L with LLᵀ = κWWᵀ."""
        root = torch.linalg.qr(self.last_layer.mT, mode="r").R.mT
        return self.samples.kappa**0.5 * root

    @cached_property
    def state(self) -> Eliminated:
        """The samples at the optimum of their features."""
        return eliminate(self.samples.targets, self._anchors, self.factor, self.start)

    @cached_property
    def residual_moment(self) -> Square:
        """QQᵀ/N, which the certificate of global optimality is about."""
        q = self.state.residuals
        return (q.mT @ q / len(q))[None]

    @cached_property
    def residual_overlap(self) -> Float[Tensor, "K d"]:
        """QXᵀ/N."""
        return self.state.residuals.mT @ self.samples.features / len(self.samples.features)

    @cached_property
    def excess(self) -> Scalar:
        """f less βλ_H/(2cN) |H0|², the part that no last layer can change; no term is negative."""
        s = self.samples
        fit = s.targets.values(self.state.logits).mean()
        penalty = (s.penalties * self.weight.square()).sum()
        w = self.last_layer
        pulled = total((self.residual_moment[0] @ w) * w)
        return (fit + 0.5 * penalty + 0.5 * s.kappa * pulled)[None]

    @cached_property
    def _overlap(self) -> Rows:
        """Qh̃ᵀ/N, with h̃ = (h, 1) where there is a bias."""
        s = self.samples
        own = s.gamma * self.residual_overlap - s.kappa * self.residual_moment[0] @ self.last_layer
        return self._widened(own, self.state.residuals.mean(0))

    @cached_property
    def gradient(self) -> Rows:
        """∇g."""
        return self._freed(self._overlap + self.samples.penalties * self.weight)

    @cached_property
    def gradient_norm(self) -> Scalar:
        """‖∇g‖_F relative to |Q||h̃|/√N + |Λ(W, b)|, which bounds it."""
        s, w = self.samples, self.last_layer
        size = s.gamma**2 * s.moment.trace() + float(s.has_bias)
        size = size - 2 * s.gamma * s.kappa * (w * self.residual_overlap).sum()
        size = size + s.kappa**2 * ((self.residual_moment[0] @ w) * w).sum()
        decay = (s.penalties * self.weight).norm()
        bound = (self.residual_moment[0].trace() * size).sqrt() + decay
        return relative(self.gradient, bound[None])

    @cached_property
    def _moment(self) -> Float[Tensor, "m m"]:
        """h̃h̃ᵀ over N."""
        s, w = self.samples, self.last_layer
        cross = s.gamma * s.kappa * (w.mT @ self.residual_overlap)
        pull = s.kappa**2 * (w.mT @ (self.residual_moment[0] @ w))
        moment = s.gamma**2 * s.moment - cross - cross.mT + pull
        if not s.has_bias:
            return moment
        mean = s.gamma * s.features.mean(0) - s.kappa * (self.state.residuals.mean(0) @ w)
        column = torch.cat([mean, mean.new_ones(1)])
        return torch.cat([torch.cat([moment, mean[None]]), column[:, None]], dim=1)

    @cached_property
    def _stiffness(self) -> tuple[Square, list[slice], list[Float[Tensor, "m m"]]]:
        """Eigenvectors of the mean curvature, its roots in groups, and for each group a factor.

        The factor is of s h̃h̃ᵀ/N + Λ, s in the middle of a group. Roots of a group are a factor
        `_ALIKE` apart at most: a preconditioner need not know more, and a factor costs d³/3.
        """
        curvature = self.state.mean_curvature
        if not curvature.isfinite().all():  # for the solver to name: eigh raises, or not
            nothing = torch.full_like(curvature, torch.nan)
            return nothing, [slice(0, len(nothing))], [torch.full_like(self._moment, torch.nan)]
        roots, vectors = torch.linalg.eigh(curvature)
        # Along 1 cross-entropy has no curvature, and nothing moves along it.
        values = roots.clamp(min=1e-3 * roots[-1].item()).tolist()
        groups, start = [], 0
        for i in range(1, len(values) + 1):
            if i == len(values) or values[i] > _ALIKE * values[start]:
                groups.append(slice(start, i))
                start = i
        middles = [math.sqrt(values[g.start] * values[g.stop - 1]) for g in groups]
        decay = self.samples.penalties.diag()
        return vectors, groups, [cholesky(s * self._moment + decay) for s in middles]

    def precondition(self, rows: Rows) -> Rows:
        """V through the inverse of S̄ ⊗ h̃h̃ᵀ/N + Λ, nearly."""
        vectors, groups, factors = self._stiffness
        turned = vectors.mT @ rows[0]
        solved = [
            torch.cholesky_solve(turned[group].mT, factor).mT
            for group, factor in zip(groups, factors, strict=True)
        ]
        return self._freed((vectors @ torch.cat(solved))[None])

    def hessian_vector_product(self, direction: Rows) -> Rows:
        """∇²g[V, v], exact."""
        s, v = self.samples, self._layer_of(direction)
        changes = self.state.curve(self.shift(direction[0]))
        held = self._widened(-s.kappa * self.residual_moment[0] @ v, torch.zeros_like(v[:, 0]))
        return self._freed(self.residual_change(changes) + held + s.penalties * direction)

    def residual_change(self, changes: Logits) -> Rows:
        """Change of ∇g with a change of the residuals, all else held."""
        s, n = self.samples, len(changes)
        across = changes.mT @ self.state.residuals / n
        own = s.gamma * (changes.mT @ s.features) / n
        own -= s.kappa * (across + across.mT) @ self.last_layer
        return self._widened(own, changes.mean(0))

    def shift(self, direction: Float[Tensor, "K m"]) -> Logits:
        """e(V, v), the change of a, less what Wᵀq turns by."""
        s, v = self.samples, self._layer_of(direction[None])
        turn = v @ self.last_layer.mT
        shift = torch.addmm(
            s.gamma * (s.features @ v.mT), self.state.residuals, turn + turn.mT, alpha=-s.kappa
        )
        return shift + direction[:, -1] if s.has_bias else shift

    def _layer_of(self, rows: Rows) -> Float[Tensor, "K n"]:
        return rows[0, :, : self.samples.features.shape[1]]

    def anchor_overlap(self, rows: Rows, *, transposed: bool) -> Rows:
        """Rows (1, m, d) times A = HXᵀ/N, or Aᵀ."""
        s, w = self.samples, self.last_layer
        own = s.gamma * (rows @ s.moment)
        if transposed:
            return own - s.kappa * (rows @ self.residual_overlap.mT) @ w
        return own - s.kappa * (rows @ w.mT) @ self.residual_overlap

    def _freed(self, rows: Rows) -> Rows:
        """Without what is held, and without the part of a free b that changes nothing."""
        if self.movable is not None:
            rows = rows * self.movable
        if self.samples.has_gauge:
            common = rows[..., -1:].mean(1, keepdim=True)
            rows = torch.cat([rows[..., :-1], rows[..., -1:] - common], dim=-1)
        return rows

    def _widened(self, own: Float[Tensor, "K n"], column: Float[Tensor, "K"]) -> Rows:
        wide = torch.cat([own, column[:, None]], dim=1) if self.samples.has_bias else own
        return wide[None]


def _single(value: Eliminated | Tensor) -> Eliminated | Tensor:
    return value.single if isinstance(value, Eliminated) else value.float()


class WarmStart:
    """Points along a path of weights, each started from the residuals of the one before."""

    def __init__(self, point: CrossEntropyPoint) -> None:
        self.point = point

    def __call__(self, weight: Rows) -> CrossEntropyPoint:
        if not len(weight):  # the solver asks for the points of nobody when it has ended
            return self.point
        if torch.equal(weight, self.point.weight):
            return self.point
        start = self.point.state.residuals if "state" in vars(self.point) else self.point.start
        self.point = replace(self.point, weight=weight, start=start)
        return self.point


def descend_convex(point: CrossEntropyPoint, tol: float = 1e-14) -> CrossEntropyPoint:
    """Newton's steps as far as they lead, where g is convex: in b alone, or at κ = 0."""
    evaluate = WarmStart(point)
    expand = torch.zeros_like(point.weight[:, 0, 0], dtype=torch.bool)
    for _ in range(_STEPS):
        norm = point.gradient_norm.item()
        if norm <= tol:
            break
        move = solve_hessian(point, -point.gradient, max(min(0.1, norm), 1e-8)).solution
        trial, gained = line_search(lambda _: evaluate, point, move, expand)
        if not gained:
            break
        point = cast(CrossEntropyPoint, trial)
    return point

"""Features at their optimum, for given last layer: one small convex problem a sample.

With γ = β/c, κ = 1/c, residual q = ω(p - t) and LLᵀ = κWWᵀ (L: K×r, r = min(K, d)) the optimal
h = γh0 - κWᵀq gives logits that close on themselves,

    z = a - LLᵀq(z),  a = γWh0 + b:      z = a + Ls,  s = argmin ω ℓ(a + Ls; t) + ½|s|²,

r unknowns a sample, strongly convex. Newton's steps are taken for all samples at once. For a loss
whose third derivative along u is at most range(u) times the second (cross-entropy: the third
cumulant against the variance) the step log(1 + R)/R, R = range(L·step), is sure to descend; the
full step is taken where it descends, and always from R <= 1 on (Sun & Tran-Dinh 2019).
"""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from perturb_nc.theory.arrays import cholesky
from perturb_nc.theory.cross_entropy.loss import Logits, Loss

MEMORY_BUDGET = 512 * 2**20
"""Bytes that matrices of all samples may take; beyond, or for K > 64, products do without them."""
_MOST_CLASSES = 64
_CHUNK_BYTES = 32 * 2**20
_STEPS = 200
_RELATIVE = {torch.float64: 1e-13, torch.float32: 1e-6}  # of products without matrices


@dataclass(frozen=True, eq=False)
class Targets:
    """A loss with what it compares to: rows t_i and the weights ω_i of the samples."""

    loss: Loss
    rows: Logits
    weights: Float[Tensor, "n 1"]

    def values(self, logits: Logits) -> Float[Tensor, "n"]:
        """ω(ψ(z) - <t, z>)."""
        fit = self.loss.potential(logits) - (self.rows * logits).sum(1)
        return self.weights[:, 0] * fit

    def residuals(self, outputs: Logits) -> Logits:
        """q = ω(p - t)."""
        return self.weights * (outputs - self.rows)

    @property
    def single(self) -> "Targets":
        """In float32."""
        return replace(self, rows=self.rows.float(), weights=self.weights.float())

    def __getitem__(self, index: slice | Tensor) -> "Targets":
        return replace(self, rows=self.rows[index], weights=self.weights[index])


@dataclass(frozen=True, eq=False)
class Eliminated:
    """Samples with their features at the optimum.

    Attributes:
        targets: what the loss compares to.
        factor: L.
        logits, outputs, residuals: z, p, q.
        steps: Newton steps the last sample took.
    """

    targets: Targets
    factor: Float[Tensor, "K r"]
    logits: Logits
    outputs: Logits
    residuals: Logits
    steps: int

    @property
    def single(self) -> "Eliminated":
        """In float32."""
        return Eliminated(
            self.targets.single,
            self.factor.float(),
            self.logits.float(),
            self.outputs.float(),
            self.residuals.float(),
            self.steps,
        )

    @cached_property
    def curvatures(self) -> Float[Tensor, "n K K"] | None:
        """Ŝ = (S⁻¹ + LLᵀ)⁻¹ of ωS, the derivative of q in a; None where too large to keep."""
        n, k = self.logits.shape
        if not _explicit(n, k):
            return None
        curvatures = self.logits.new_empty(n, k, k)
        for rows in _chunks(n, 6 * k * k):
            curvatures[rows] = _reduced_curvature(
                self.targets[rows], self.outputs[rows], self.factor
            )
        return curvatures

    def curve(self, directions: Logits) -> Logits:
        """Ŝv, the change of q with a change v of a."""
        if self.curvatures is not None:
            return torch.bmm(self.curvatures, directions[..., None])[..., 0]
        changes = torch.empty_like(directions)
        for rows in _chunks(len(directions), 16 * directions.shape[1]):
            loss, weights = self.targets.loss, self.targets.weights[rows]
            outputs, right = self.outputs[rows], directions[rows]
            pull = weights * loss.curve(outputs, right) @ self.factor
            inner = _conjugate_gradients(
                loss, outputs, weights, self.factor, pull, _RELATIVE[pull.dtype]
            )
            changes[rows] = weights * loss.curve(outputs, right - inner @ self.factor.mT)
        return changes

    @property
    def mean_curvature(self) -> Float[Tensor, "K K"]:
        """Mean of Ŝ, or of ωS put through its formula where Ŝ is not kept."""
        if self.curvatures is not None:
            return self.curvatures.mean(0)
        loss, n = self.targets.loss, len(self.outputs)
        mean = torch.zeros_like(self.factor @ self.factor.mT)
        for rows in _chunks(n, 2 * self.outputs.shape[1] ** 2):
            mean += (self.targets.weights[rows, :, None] * loss.curvature(self.outputs[rows])).sum(
                0
            )
        mean /= n
        system = (
            torch.eye(len(mean), dtype=mean.dtype, device=mean.device)
            + self.factor @ self.factor.mT @ mean
        )
        return mean @ torch.linalg.inv(system)


def eliminate(
    targets: Targets,
    anchors: Logits,
    factor: Float[Tensor, "K r"],
    start: Logits | None = None,
) -> Eliminated:
    """Solve z = a - LLᵀq(z) for every sample; `start` is q of a neighbour, to start from."""
    n, k = anchors.shape
    explicit = _explicit(n, k)
    logits, steps = anchors, 0
    if factor.any():
        logits = torch.empty_like(anchors)
        for rows in _chunks(n, 6 * k * k if explicit else 16 * k):
            first = None if start is None else start[rows]
            logits[rows], taken = _newton(targets[rows], anchors[rows], factor, first, explicit)
            steps = max(steps, taken)
    outputs = targets.loss.outputs(logits)
    return Eliminated(targets, factor, logits, outputs, targets.residuals(outputs), steps)


def _explicit(samples: int, num_classes: int) -> bool:
    """Whether matrices of all samples are formed."""
    fits = 8 * samples * num_classes**2 <= MEMORY_BUDGET
    return num_classes <= _MOST_CLASSES and fits


def _newton(
    targets: Targets,
    anchors: Logits,
    factor: Float[Tensor, "K r"],
    start: Logits | None,
    explicit: bool,
) -> tuple[Logits, int]:
    """Logits of a chunk of samples, and the steps taken; samples that have arrived drop out."""
    first = targets.residuals(targets.loss.outputs(anchors)) if start is None else start
    s = -first @ factor
    coarse = 1e-15 * factor.square().sum(1).max()
    live = torch.arange(len(s), device=s.device)
    steps = 0
    while len(live) and steps < _STEPS:
        steps += 1
        own, a, at = targets[live], anchors[live], s[live]
        z = a + at @ factor.mT
        p = own.loss.outputs(z)
        slope = at + own.residuals(p) @ factor
        if explicit:
            move = -_solve(_systems(own, p, factor), slope)
        else:
            size = slope.norm(dim=1, keepdim=True)
            forcing = size.clamp(max=0.1)
            move = -_conjugate_gradients(own.loss, p, own.weights, factor, slope, forcing)
        change = move @ factor.mT
        reach = change.amax(1) - change.amin(1)
        s[live] = at + _lengths(own, z, at, move, change, slope, reach) * move
        rounding = 1e-13 * torch.maximum(z.abs(), a.abs()).amax(1) + coarse
        live = live[(reach > 1e-8) & (reach > rounding)]
    return anchors + s @ factor.mT, steps


def _lengths(
    targets: Targets,
    z: Logits,
    s: Float[Tensor, "n r"],
    move: Float[Tensor, "n r"],
    change: Logits,
    slope: Float[Tensor, "n r"],
    reach: Float[Tensor, "n"],
) -> Float[Tensor, "n 1"]:
    """1, or the first half, quarter, ... that descends enough; log(1 + R)/R at the least."""
    lengths = torch.ones_like(reach)
    far = (reach > 1.0).nonzero()[:, 0]
    while len(far):
        own, length = targets[far], lengths[far, None]
        gain = own.values(z[far]) - own.values(z[far] + length * change[far])
        gain += 0.5 * (s[far].square() - (s[far] + length * move[far]).square()).sum(1)
        slow = gain < -1e-4 * length[:, 0] * (slope[far] * move[far]).sum(1)
        safe = torch.log1p(reach[far]) / reach[far]
        lengths[far] = torch.where(slow, torch.maximum(0.5 * lengths[far], safe), lengths[far])
        far = far[slow & (lengths[far] > safe)]
    return lengths[:, None]


def _systems(
    targets: Targets, outputs: Logits, factor: Float[Tensor, "K r"]
) -> Float[Tensor, "n r r"]:
    """I + Lᵀ(ωS)L."""
    curvature = targets.weights[:, :, None] * targets.loss.curvature(outputs)
    systems = factor.mT @ (curvature @ factor)
    systems.diagonal(dim1=1, dim2=2).add_(1.0)
    return systems


def _solve(systems: Float[Tensor, "n r r"], right: Float[Tensor, "n r"]) -> Float[Tensor, "n r"]:
    return torch.cholesky_solve(right[..., None], cholesky(systems))[..., 0]


def _reduced_curvature(
    targets: Targets, outputs: Logits, factor: Float[Tensor, "K r"]
) -> Float[Tensor, "n K K"]:
    """Ŝ = ωS - ωSL(I + LᵀωSL)⁻¹LᵀωS."""
    curvature = targets.weights[:, :, None] * targets.loss.curvature(outputs)
    pull = factor.mT @ curvature
    systems = pull @ factor
    systems.diagonal(dim1=1, dim2=2).add_(1.0)
    half = torch.linalg.solve_triangular(cholesky(systems), pull, upper=False)
    return curvature - half.mT @ half


def _conjugate_gradients(
    loss: Loss,
    outputs: Logits,
    weights: Float[Tensor, "n 1"],
    factor: Float[Tensor, "K r"],
    right: Float[Tensor, "n r"],
    relative: Float[Tensor, "n 1"] | float,
) -> Float[Tensor, "n r"]:
    """(I + LᵀωSL)⁻¹ right, sample by sample, without the matrices; no eigenvalue is below 1."""
    solution, residual, direction = torch.zeros_like(right), right, right
    inner = right.square().sum(1, keepdim=True)
    enough = relative**2 * inner
    for _ in range(2 * right.shape[1] + 10):
        active = inner > enough
        if not active.any():
            break
        product = direction + weights * loss.curve(outputs, direction @ factor.mT) @ factor
        step = torch.where(active, inner / (direction * product).sum(1, keepdim=True), 0.0)
        solution = solution + step * direction
        residual = residual - step * product
        previous, inner = inner, residual.square().sum(1, keepdim=True)
        direction = residual + torch.where(active, inner / previous, 0.0) * direction
    return solution


def _chunks(count: int, floats: int) -> list[slice]:
    """Slices of samples whose working arrays, `floats` numbers a sample, fit the chunk."""
    size = max(1, _CHUNK_BYTES // (8 * floats))
    return [slice(i, min(i + size, count)) for i in range(0, count, size)]

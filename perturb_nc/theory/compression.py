"""Class statistics on a subspace that holds the optimal weights of many settings of (1).

A stationary weight of (1) solves W(σI + Σ_W0) = (rows in the span of M0, W and WΣ_W0) with

    σ = (λ_W/K) (1 + λ_H/β)²,

so that it lies close to a rational Krylov space of Σ_W0 and M0 with poles in the range of these σ.
On an orthonormal basis V (d×m) of such a space, turned so that VᵀΣ_W0V is diagonal, problem (1) is
the same problem for the statistics V gives: M0V and VᵀΣ_W0V, and one more coordinate without class
means that carries the rest of tr Σ_W0. What that neglects of the gradient, with F of
`theory.optimal_features` β²/c · FV · VᵀΣ_W0(I - VVᵀ), is known at every point. Where it is too
large V grows by the main directions of its Newton step.

V also holds the K directions outside the Krylov space in which the features vary least. For a
weight in V whose leak is 0 the Hessian falls into that of V and, for every eigenvector q of Σ_W0
outside with eigenvalue s and every direction u of classes, u qᵀ, with γ = β/c

    cγ²s G - EEᵀ/(cN) + (λ_W/K) I      relative to      γ²s + λ_W/K.

cG <= 1, so that where this has a negative eigenvalue at all it has its lowest at the least s: a
saddle is left in V if anywhere, and second-order conditions are those of all d.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.arrays import random_normal, relative, total
from perturb_nc.theory.diagonal import DiagonalPoint
from perturb_nc.theory.point import Points
from perturb_nc.theory.reduced import ReducedPoint

_POLES, _ROUNDS = 3, 3
_SINGLE = 6  # rounds for one setting
_MOST = 24  # blocks to grow by
_TURNED = 1024  # dimensions of which all eigenvectors are worth their while


@dataclass(frozen=True, eq=False)
class Compression:
    """Statistics in the coordinates of V, and what they leave out.

    Attributes:
        basis: V, (d, m); None where the coordinates are those given.
        statistics: of dimension m + 1 (of dimension d without a basis).
        outside: (I - VVᵀ)Σ_W0V, (d, m); None where V is all of space.
        leak: its triangular factor, (m, m), or itself where one setting is all that asks.
        roots: σ → Cholesky factor of Σ_W0 + σI, kept for a space that grows.
    """

    basis: Float64[Tensor, "d m"] | None
    statistics: ClassStatistics
    outside: Float64[Tensor, "d m"] | None
    leak: Float64[Tensor, "r m"] | None
    roots: dict[float, Tensor] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether it is all of space."""
        return self.outside is None

    def points(self, settings: Float64[Tensor, "b 3"], bias: bool) -> Points:
        """What `descend` asks for."""
        return lambda index: lambda weight: self.at(weight, settings[index], bias)

    def at(
        self, weight: Float64[Tensor, "... K n"], settings: Float64[Tensor, "... 3"], bias: bool
    ) -> ReducedPoint:
        """Problem (1) at weights of the compressed problem."""
        if self.basis is None:
            return ReducedPoint(self.statistics, weight, settings, bias)
        return DiagonalPoint(self.statistics, weight, settings, bias, idle=1)

    def lifted(self, weight: Float64[Tensor, "... K n"]) -> Float64[Tensor, "... K d"]:
        """A weight of the compressed problem in all d dimensions."""
        return weight if self.basis is None else weight[..., :-1] @ self.basis.mT

    def compressed(self, weight: Float64[Tensor, "... K d"]) -> Float64[Tensor, "... K n"]:
        """A weight in d dimensions, projected on V."""
        if self.basis is None:
            return weight
        return torch.nn.functional.pad(weight @ self.basis, (0, 1))

    def neglected(self, point: ReducedPoint) -> Float64[Tensor, "..."]:
        """Norm of the gradient outside of V, relative to the bound of the whole gradient."""
        if self.leak is None:
            return torch.zeros_like(point.gradient_norm)
        return relative(_neglected(point) @ self.leak.mT, point.gradient_bound)

    def full_norm(self, point: ReducedPoint) -> Float64[Tensor, "..."]:
        """ReducedPoint.gradient_norm of lifted weights, in all d dimensions."""
        return torch.hypot(point.gradient_norm, self.neglected(point))

    def grown(self, statistics: ClassStatistics, point: ReducedPoint, tol: float) -> "Compression":
        """V continued from what the gradients at some points miss; all d dimensions in the end."""
        if self.basis is None or self.outside is None:
            return self
        k, d = statistics.means.shape
        basis, poles = self.basis, _poles(point.hyperparameters, statistics)
        alone = len(point.weight) == 1
        if alone:
            poles = poles[:1]
        missed = float(self.neglected(point).max())
        rounds = math.ceil(_more(missed, tol, basis.shape[1] // k) / len(poles))
        room = (3 * d // 4 - basis.shape[1]) // (k * len(poles))
        if room < 1:
            return turned(statistics)
        poles = poles.repeat(min(rounds, room))
        rows = _neglected(point) @ self.outside.mT
        rows = rows / total(rows.square()).sqrt()[:, None, None].clamp(min=1e-300)
        block = _main_directions(rows.flatten(0, 1), k)
        image = self.outside + basis * self.statistics.within.diagonal()[:-1]
        wider = _continued(statistics, basis, block, poles, self.roots)
        new = _on_basis(statistics, wider, image, alone=alone)
        return replace(new, roots=self.roots)


def uncompressed(statistics: ClassStatistics) -> Compression:
    """All d dimensions."""
    return Compression(None, statistics, None, None)


def turned(statistics: ClassStatistics) -> Compression:
    """All d dimensions along the eigenvectors of Σ_W0, where these cost little enough."""
    k, d = statistics.means.shape
    # With fewer dimensions than classes one more coordinate would change ranks.
    if not k <= d <= _TURNED or not statistics.within.any():
        return uncompressed(statistics)
    basis = torch.linalg.eigh(statistics.within).eigenvectors
    return replace(_on_basis(statistics, basis), outside=None, leak=None)


def narrow(statistics: ClassStatistics, hyperparameters: Float64[Tensor, "1 3"]) -> Compression:
    """A subspace for one setting, without the directions in which features vary least."""
    k, d = statistics.means.shape
    if 2 * (_SINGLE + 1) * k > d:
        return turned(statistics)
    basis, roots = torch.linalg.qr(statistics.means.mT).Q, dict[float, Tensor]()
    poles = _poles(hyperparameters, statistics)[:1].repeat(_SINGLE)
    basis = _continued(statistics, basis, basis, poles, roots)
    return replace(_on_basis(statistics, basis, alone=True), roots=roots)


def compress(statistics: ClassStatistics, hyperparameters: Float64[Tensor, "B 3"]) -> Compression:
    """A subspace for settings (λ_W, λ_H, β); none where it would be most of space."""
    (k, d), within = statistics.means.shape, statistics.within
    if 2 * (_POLES * _ROUNDS + 2) * k > d:
        return turned(statistics)
    poles = _poles(hyperparameters, statistics)
    basis = torch.linalg.qr(statistics.means.mT).Q
    basis = _continued(statistics, basis, basis, poles.repeat(_ROUNDS), {})
    # Least variance outside: project, lift what lies inside out of the way, take the smallest.
    image = within @ basis
    core = basis.mT @ image
    largest = torch.linalg.matrix_norm(within)
    moved = within - image @ basis.mT - basis @ image.mT
    moved = moved + basis @ (core + 2 * largest * torch.diag(core.new_ones(len(core)))) @ basis.mT
    least = torch.linalg.eigh(0.5 * (moved + moved.mT)).eigenvectors[:, :k]
    return _on_basis(statistics, torch.cat([basis, _orthonormal(least, basis)], dim=1))


def _poles(
    hyperparameters: Float64[Tensor, "B 3"], statistics: ClassStatistics
) -> Float64[Tensor, "p"]:
    """Shifts over the range of σ, within float64."""
    lambda_w, lambda_h, beta = hyperparameters.unbind(1)
    ratio = torch.where(beta > 0, lambda_h / beta, 0.0)  # at β = 0 H0 does not matter
    sigma = lambda_w / statistics.num_classes * (1 + ratio) ** 2
    largest = torch.linalg.matrix_norm(statistics.within).clamp(min=1e-300)
    wanted = torch.minimum(sigma.clamp(min=1e-7 * largest), largest)
    ends = torch.stack([wanted.min(), wanted.max()]).log()
    shares = torch.linspace(0, 1, _POLES, dtype=ends.dtype, device=ends.device)
    return ((1 - shares) * ends[0] + shares * ends[1]).exp()


def _continued(
    statistics: ClassStatistics,
    basis: Float64[Tensor, "d m"],
    block: Float64[Tensor, "d k"],
    poles: Float64[Tensor, "p"],
    roots: dict[float, Tensor],
) -> Float64[Tensor, "d n"]:
    """The basis with (Σ_W0 + σI)⁻¹ of the last block, for pole after pole."""
    for pole in poles.tolist():
        if pole not in roots:
            shifted = statistics.within.clone()
            shifted.diagonal().add_(pole)
            roots[pole] = torch.linalg.cholesky(shifted)
        root = roots[pole]  # two triangular solves: cholesky_solve would copy it
        block = torch.linalg.solve_triangular(root, block, upper=False)
        block = torch.linalg.solve_triangular(root.mT, block, upper=True)
        block = _orthonormal(block, basis)
        basis = torch.cat([basis, block], dim=1)
    return basis


def _main_directions(rows: Float64[Tensor, "n d"], count: int) -> Float64[Tensor, "d k"]:
    """About the leading right singular vectors, by subspace iteration."""
    block = random_normal(rows.shape[1], count, like=rows)
    for _ in range(3):
        block = torch.linalg.qr(rows.mT @ (rows @ block)).Q
    return block


def _neglected(point: ReducedPoint) -> Float64[Tensor, "... K m"]:
    """β²/c · FV, of which the gradient outside of V is a multiple."""
    return point.beta**2 / point.c * point.lift[..., :-1]


def _orthonormal(
    block: Float64[Tensor, "d k"], basis: Float64[Tensor, "d m"]
) -> Float64[Tensor, "d k"]:
    # Twice: for what rounding leaves, or for directions that the basis had already.
    for _ in range(2):
        block = torch.linalg.qr(block - basis @ (basis.mT @ block)).Q
    return block


def _on_basis(
    statistics: ClassStatistics,
    basis: Float64[Tensor, "d m"],
    image: Float64[Tensor, "d n"] | None = None,
    *,
    alone: bool = False,
) -> Compression:
    """The space of a basis, with Σ_W0 times its first columns where that is known."""
    known = 0 if image is None else image.shape[1]
    further = statistics.within @ basis[:, known:]
    image = further if image is None else torch.cat([image, further], dim=1)
    core = basis.mT @ image
    variances, turn = torch.linalg.eigh(0.5 * (core + core.mT))
    basis, image = basis @ turn, image @ turn
    variances = variances.clamp(min=0.0)  # below 0 is rounding
    left = (statistics.within.trace() - variances.sum()).clamp(min=0.0)
    within = torch.diag(torch.cat([variances, left[None]]))
    means = torch.nn.functional.pad(statistics.means @ basis, (0, 1))
    own = ClassStatistics(statistics.counts, means, within, statistics.class_variance)
    rest = torch.addcmul(image, basis, variances, value=-1)
    leak = rest if alone else torch.linalg.qr(rest, mode="r").R
    return Compression(basis, own, rest, leak)


def _more(missed: float, tol: float, blocks: int) -> int:
    """Blocks to come, at the rate at which those that are there took the gradient down."""
    if not tol < missed < 0.1:
        return _SINGLE
    return min(_MOST, math.ceil(blocks * math.log(tol / missed) / math.log(missed)))

"""The optimum with cross-entropy near collapse, to first order in closed form (docs §4.9).

In the span features have coordinates x = Rh (K, adding up to 0), with R the simplex frame nearest
to the class means; J = I - 11ᵀ/K, a_k = Je_k. At collapse S_k = bJ + θ(1-θ)a_ka_kᵀ, so that any
function of it has two values: κ ↦ towards the own class, b ↦ between two others. A table has the
coordinates of one class a row.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from perturb_nc.moments import Scalar
from perturb_nc.statistics import ClassStatistics
from perturb_nc.theory.vicinity.frame import NearestFrame

Table = Float64[Tensor, "K K"]
Rows = Float64[Tensor, "K d"]
Column = Float64[Tensor, "K"]


class Pair(NamedTuple):
    """A function of S_k: its values towards the own class and between two others."""

    towards: Scalar
    between: Scalar

    def own(self, num_classes: int) -> Scalar:
        """φ' in φ(S_k) = φ(b)J + φ'a_ka_kᵀ."""
        return (self.towards - self.between) * (num_classes / (num_classes - 1))

    def __call__(self, table: Table, projector: Table) -> Table:
        """φ(S_k) of row k, for all k; rows add up to 0."""
        own = self.own(len(table)) * table.diagonal()
        return self.between * table + own[:, None] * projector


@dataclass(frozen=True, eq=False)
class NearSamples:
    """What the closed form sees of reference features.

    Attributes:
        frame: nearest to the class means in their contrasts.
        centred: class statistics of H0, less its mean where b is free.
        simplex: R, (K, d).
        coordinates: of the class means, xₖ0, (K, K).
        towards: v_k, covariance in class k of the features with their coordinate k, (K, d).
        variances: of the coordinates in class k, (K, K).
    """

    frame: NearestFrame
    centred: ClassStatistics
    simplex: Rows
    coordinates: Table
    towards: Rows
    variances: Table

    @classmethod
    def of(
        cls,
        frame: NearestFrame,
        centred: ClassStatistics,
        features: Float64[Tensor, "N d"],
        labels: Int64[Tensor, "N"],
    ) -> "NearSamples":
        """From the features that the centred statistics are of."""
        simplex, counts = frame.contrasts @ frame.rows, centred.counts[:, None].to(features)
        deviations = features - centred.means[labels]
        inside = deviations @ simplex.mT

        def averaged(rows: Tensor) -> Tensor:
            """Means over the classes."""
            zero = rows.new_zeros(len(counts), rows.shape[1])
            return zero.index_add_(0, labels, rows) / counts

        towards = averaged(inside.gather(1, labels[:, None]) * deviations)
        coordinates = centred.means @ simplex.mT
        return cls(frame, centred, simplex, coordinates, towards, averaged(inside.square()))

    @property
    def projector(self) -> Table:
        """J."""
        return self.simplex @ self.simplex.mT

    @property
    def own(self) -> Table:
        """v_kRᵀ: covariance of the coordinates with coordinate k."""
        return self.towards @ self.simplex.mT

    def outside(self, rows: Float64[Tensor, "n d"]) -> Float64[Tensor, "n d"]:
        """What is off the span."""
        return rows - (rows @ self.simplex.mT) @ self.simplex


@dataclass(frozen=True, eq=False)
class NearScalars:
    """All that λ_W, λ_H and β do.

    Attributes:
        size, slope: m and α: collapsed means are mR, the weight is αR.
        c0, theta: √(λ_Wλ_H) and p_y - p_other.
        curvature: of S: κ and b.
        kept: γ(S) = β/(c + α²S), what is left of deviations within classes in the span.
        off_span: β/c, and off it.
        odd, even: of K∇²g: on antisymmetric changes of the weight in the span, and as a function
            of S on symmetric ones.
        outside: of K∇²g, off the span.
        across, bias: of K∇²g, between the diagonal of such a change and b, and in b; no number
            for b where there is none.
        anchor: β.
    """

    size: Scalar
    slope: Scalar
    c0: Scalar
    theta: Scalar
    curvature: Pair
    kept: Pair
    off_span: Scalar
    odd: Scalar
    even: Pair
    outside: Scalar
    across: Scalar
    bias: Scalar | None
    anchor: Scalar


def near_scalars(
    strengths: Float64[Tensor, "3"], num_classes: int, smoothing: float, bias_decay: float | None
) -> NearScalars:
    """Of λ_W, λ_H, β with c0 < 1 - ε; bias_decay is None without b, else λ_b in units of λ_W.

    With G(x) = 1/(c + α²x): γ = βG, on symmetric changes G(x)(λ_Wβ + (β + 4λ_H)m²x).
    """
    decay, shrinkage, anchor = strengths
    k, c = num_classes, shrinkage + anchor
    c0, ratio = (decay * shrinkage).sqrt(), (shrinkage / decay).sqrt()
    theta = 1 - smoothing - c0
    gap, other = torch.log1p(k * theta / (1 - theta)), (1 - theta) / k
    curvature = Pair(k * other * (other + theta), other)
    size, slope = (gap / ratio).sqrt(), (gap * ratio).sqrt()
    kept = Pair(*(anchor / (c + slope**2 * x) for x in curvature))
    read = Pair(*(x * g / anchor for x, g in zip(curvature, kept, strict=True)))
    soft = [decay * anchor + (anchor + 4 * shrinkage) * size**2 * x for x in curvature]
    own = read.own(k)
    bias = None
    if bias_decay is not None:
        bias = c * (k * read.between + own) + bias_decay * decay
    return NearScalars(
        size=size,
        slope=slope,
        c0=c0,
        theta=theta,
        curvature=curvature,
        kept=kept,
        off_span=anchor / c,
        odd=kept.between * (decay + size**2 * other),
        even=Pair(*(g / anchor * s for g, s in zip(kept, soft, strict=True))),
        outside=decay * anchor / c,
        across=size * own * (anchor + 2 * shrinkage),
        bias=bias,
        anchor=anchor,
    )


class LayerChange(NamedTuple):
    """A change of W in the span, YR, of W off it, and of b."""

    inside: Table
    outside: Rows
    bias: Column


def solve_near(s: NearScalars, pull: LayerChange, projector: Table) -> LayerChange:
    """(K∇²g)⁻¹ at collapse, on what has rows and columns that add up to 0."""
    k, lower = len(projector), s.even.between
    even, odd = 0.5 * (pull.inside + pull.inside.mT), 0.5 * (pull.inside - pull.inside.mT)
    diagonal, own = even.diagonal(), s.even.own(k)
    mean = diagonal.mean()
    rest, share = diagonal - mean, 1 - 2 / k
    bias = torch.zeros_like(rest)
    stiff = lower + share * own
    if s.bias is not None:
        right = pull.bias - s.across * rest / stiff
        bias = right / (s.bias - share * s.across**2 / stiff)
    sized = mean / s.even.towards + (rest - share * s.across * bias) / stiff
    load = own * sized + s.across * bias
    even = (even - projector @ (load[:, None] * projector)) / lower
    return LayerChange(even + odd / s.odd, pull.outside / s.outside, bias)


@dataclass(frozen=True, eq=False)
class NearOptimum:
    """The optimum to first order: W, b (of centred features), means, Σ_W, class variances."""

    weight: Rows
    bias: Column
    means: Rows
    within: Float64[Tensor, "d d"]
    variances: Column


def near_optimum(samples: NearSamples, s: NearScalars) -> NearOptimum:
    """One order more than collapse, in the class means, the class covariances and π - 1/K.

    At W = αR what H0 is off moves the class means by γ(S_k)(x_k0 - ma_k) - (α/c)τ_k, where

        τ_k = ½α²(c/β) γ(S_k) T_k[Θ_k],     Θ_k = γ(S_k) RΣ_k0Rᵀ γ(S_k),

    T the third cumulant of p, is by how much deviations within the class change its mean residual.
    The change of (W, b) takes away the gradient that this leaves, and the means follow it.
    """
    j, k = samples.projector, len(samples.simplex)
    moved, curved, load = s.kept(samples.coordinates - s.size * j, j), *_curved(samples, s)
    residual = s.slope * s.curvature(moved, j) + curved
    shifted = moved - s.slope * s.off_span / s.anchor * curved
    uneven = k * s.c0 * (j @ (samples.centred.priors - 1 / k))
    inside = s.size * (residual.mT @ j) - s.c0 * (j @ shifted) + load
    inside = inside - s.size * (j @ (uneven[:, None] * j))
    pull = LayerChange(-inside, -_outside(samples, s), uneven - residual.sum(0))
    change = solve_near(s, pull, j)
    logits = s.size * change.inside.mT + change.bias
    follow = s.c0 * change.inside - s.slope * s.curvature(logits, j)
    inner = s.size * j + shifted + s.kept(follow, j) / s.anchor
    common = samples.outside(samples.centred.means.mean(0)[None])
    means = inner @ samples.simplex + s.off_span * (s.c0 / s.anchor * change.outside + common)
    weight = (s.slope * j + change.inside) @ samples.simplex + change.outside
    return NearOptimum(weight, change.bias, means, *_within(samples, s))


def _curved(samples: NearSamples, s: NearScalars) -> tuple[Table, Table]:
    """τ_k, and αΣ_k S_kΘ_k."""
    j, k, extra = samples.projector, len(samples.simplex), s.kept.own(len(samples.simplex))
    own, loads = samples.own, samples.own.diagonal()
    # Θ_k e_k, and the diagonal of Θ_k: γ(S_k) leaves γ(b)x + γ'a_kx_k of a deviation x.
    across = s.kept.towards * (s.kept.between * own + extra * loads[:, None] * j)
    diagonal = s.kept.between**2 * samples.variances + extra**2 * loads[:, None] * j.square()
    diagonal = diagonal + 2 * s.kept.between * extra * j * own
    last = across.diagonal()[:, None]
    centred = diagonal - 2 * s.theta * across + (2 * s.theta**2 - s.theta) * last
    third = s.curvature.between * (centred - s.curvature.between * diagonal.sum(1, keepdim=True))
    third = third + s.theta * torch.diag(third.diagonal() / s.curvature.between)
    curved = 0.5 * s.slope**2 / s.off_span * s.kept(third, j)
    pooled = k * samples.simplex @ samples.centred.within @ samples.simplex.mT
    cross = extra * s.kept.between * (own.mT @ j)
    total = s.kept.between**2 * pooled + cross + cross.mT
    total = total + extra**2 * (j @ (loads[:, None] * j))
    rise = s.theta * (1 - s.theta) * (j @ across)
    return curved, s.slope * (s.curvature.between * total + rise)


def _outside(samples: NearSamples, s: NearScalars) -> Rows:
    """α(β/c) Σ_k S_kγ(S_k) RΣ_k0(I - RᵀR)."""
    read = Pair(*(x * g for x, g in zip(s.curvature, s.kept, strict=True)))
    k = len(samples.simplex)
    pooled = k * samples.outside(samples.simplex @ samples.centred.within)
    towards = samples.projector @ samples.outside(samples.towards)
    return s.slope * s.off_span * (read.between * pooled + read.own(k) * towards)


def _within(samples: NearSamples, s: NearScalars) -> tuple[Float64[Tensor, "d d"], Column]:
    """Σ π_kΓ_kΣ_k0Γ_k and tr Γ_kΣ_k0Γ_k, Γ_k = γ(S_k) in the span and β/c off it."""
    k, r, inner, off = len(samples.simplex), samples.simplex, s.kept.between, s.off_span
    extra, priors = s.kept.own(k), samples.centred.priors[:, None]
    own, loads = samples.own, samples.own.diagonal()
    reference = samples.centred
    half = r @ reference.within
    cross = (inner - off) * off * (r.mT @ half)
    square = (inner - off) ** 2 * (half @ r.mT)
    rows = off * samples.towards + (inner - off) * (own @ r)
    pulled = extra * (r.mT @ (priors * rows))
    square = square + extra**2 * (samples.projector @ (priors * loads[:, None] * samples.projector))
    within = off**2 * reference.within + cross + cross.mT + pulled + pulled.mT
    within = within + r.mT @ square @ r
    inside = samples.variances.sum(1)
    variances = off**2 * (reference.class_variance - inside) + inner**2 * inside
    variances = variances + extra * (2 * inner + extra * (1 - 1 / k)) * loads
    # Below zero is rounding.
    return within - torch.diag(within.diagonal().clamp(max=0.0)), variances.clamp(min=0.0)

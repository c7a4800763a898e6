"""Collapse with cross-entropy in closed form: the optimum, and the spectrum of the response there.

Balanced classes. With c0 = √(λ_Wλ_H), label smoothing ε and a simplex frame R (RRᵀ = I - 11ᵀ/K) the
collapsed optimum has class means mR and W = αR, α/m = s0 = √(λ_H/λ_W), and of g = αm

    θ = 1 - ε - c0 = p_y - p_other = (e^g - 1)/(e^g + K - 1),     so g = log((1 + (K-1)θ)/(1 - θ)):

scalars, whatever K and d are; it is zero from c0 = 1 - ε on.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.summary import Summarised
from perturb_nc.theory.collapse import simplex_etf
from perturb_nc.validation import at_least, nonnegative, positive


@dataclass(frozen=True, eq=False, repr=False)
class CrossEntropyCollapse(Summarised):
    """The collapsed global minimiser at β = 0, and at any β when H0 is this optimum.

    Attributes:
        gap: g, by how much the logit of the own class exceeds the others.
        own, other: p_y and p of every other class.
        c0: √(λ_Wλ_H), by which the own class falls short: t - p = c0 (e_y - 1/K).
        means: √(g/s0) R, (K, d).
        weight: √(g s0) R, (K, d). The bias is 0.
        objective: f.
    """

    gap: float
    own: float
    other: float
    c0: float
    means: Float64[Tensor, "K d"]
    weight: Float64[Tensor, "K d"]
    objective: float


def cross_entropy_collapse(
    *,
    num_classes: int,
    dim: int,
    lambda_w: float,
    lambda_h: float,
    label_smoothing: float = 0.0,
    seed: int = 0,
) -> CrossEntropyCollapse:
    """The collapsed optimum for balanced classes, with or without bias (which is 0).

    The frame is free up to rotation; `seed` draws one.

    Args:
        num_classes: K >= 2.
        dim: d >= K-1.
        lambda_w, lambda_h: λ_W, λ_H > 0.
        label_smoothing: ε in [0, 1).

    Raises:
        ValueError: arguments out of range.

    Source: Zhu et al. 2021 and Tirer & Bruna 2022 for the frame; the scalars: docs §4.9.
    """
    k, lambda_w = num_classes, positive(lambda_w, "lambda_w")
    lambda_h, smoothing = positive(lambda_h, "lambda_h"), _smoothing(label_smoothing)
    frame = simplex_etf(k, dim, seed=seed)
    c0 = math.sqrt(lambda_w * lambda_h)
    theta = max(0.0, 1.0 - smoothing - c0)
    gap = math.log1p(k * theta / (1 - theta))
    ratio = math.sqrt(lambda_h / lambda_w)
    other = (1 - theta) / k
    # (1-ε)(-log p_y) - (ε/K) Σ log p + λ_W|W|²/(2K) + λ_H|M|²/(2K), |R|² = K-1.
    fit = -math.log(other) - gap * (1 - smoothing + smoothing / k)
    return CrossEntropyCollapse(
        gap=gap,
        own=other + theta,
        other=other,
        c0=c0,
        means=math.sqrt(gap / ratio) * frame,
        weight=math.sqrt(gap * ratio) * frame,
        objective=fit + c0 * gap * (k - 1) / k,
    )


@dataclass(frozen=True, repr=False)
class CrossEntropySpectrum(Summarised):
    """Eigenvalues β/(β + σ) of F (dN×dN), δH = F δH0, at the collapsed optimum H0 = H*, any β > 0.

    Attributes:
        names: what each perturbation moves.
        stiffness: σ.
        eigenvalues: β/(β + σ).
        multiplicities: adding up to dN.
    """

    names: tuple[str, ...]
    stiffness: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    multiplicities: NDArray[np.int64]


def cross_entropy_spectrum(
    *,
    num_classes: int,
    dim: int,
    samples_per_class: int,
    lambda_w: float,
    lambda_h: float,
    beta: float,
    bias: bool = True,
    bias_decay: bool = False,
    label_smoothing: float = 0.0,
) -> CrossEntropySpectrum:
    """Spectrum of the first-order response at the collapsed optimum, balanced.

    With a = p_y, b = p_other, κ = Kab, θ = a - b and g, s0, c0 of the collapsed optimum:

        within classes in the span   towards the own class    λ_H + s0 g κ             K(n-1)
                                     between two others       λ_H + s0 g b             K(n-1)(K-2)
        within classes off the span                           λ_H                      K(n-1)(d-K+1)
        deformations of the frame, σ(x) = 4 s0 c0 g x/(c0 + g x):   its size      σ(κ)           1
                                     lengths of its rows      σ(κ/(1+θ))               K-1
                                     angles between them      σ(b)                     K(K-3)/2
        rotations of the frame                                0      (K-1)(K-2)/2 + (K-1)(d-K+1)
        shift of all classes                                  λ_H                      d

    (with two classes the frame has a size only). The squared loss, S = I, has one value in place of
    the first two. As c0 → 0 they are of order s0 g c0: contraction stops.

    That is with a free bias. Without one, or with one that decays, nothing takes up a shift of all
    classes in the span: it and the lengths of the rows mix, two values, K-1 times each, the
    eigenvalues of a 2×2 form (docs §4.9); the shift is λ_H in d-K+1 directions only.

    Args:
        num_classes: K >= 2.
        dim: d >= K-1.
        samples_per_class: n >= 1.
        lambda_w, lambda_h: λ_W, λ_H > 0 with √(λ_Wλ_H) < 1 - ε.
        beta: β > 0.
        bias, bias_decay: as in `CrossEntropyProblem`.
        label_smoothing: ε in [0, 1).

    Raises:
        ValueError: arguments out of range; c0 >= 1 - ε, where the optimum is zero.

    Source: docs §4.9.
    """
    k = at_least(num_classes, 2, "num_classes")
    d, n = at_least(dim, k - 1, "dim"), at_least(samples_per_class, 1, "samples_per_class")
    lambda_w, lambda_h = positive(lambda_w, "lambda_w"), positive(lambda_h, "lambda_h")
    beta, smoothing = positive(beta, "beta"), _smoothing(label_smoothing)
    c0, ratio = math.sqrt(lambda_w * lambda_h), math.sqrt(lambda_h / lambda_w)
    theta = 1 - smoothing - c0
    if theta <= 0:
        raise ValueError(
            f"sqrt(lambda_w * lambda_h) must be < {1 - smoothing:g}, got {c0:g}; from there on the "
            "optimum is zero"
        )
    gap, other = math.log1p(k * theta / (1 - theta)), (1 - theta) / k
    towards = k * other * (other + theta)

    def deformation(x: float) -> float:
        """At logit gap x, of this setting."""
        return _deformation(c0, ratio, gap, x)

    if bias_decay and not bias:
        raise ValueError("bias_decay is for a model with a bias; give bias=True")
    off, within = d - k + 1, k * (n - 1)
    table = {
        "within, towards the own class": (lambda_h + ratio * gap * towards, within),
        "within, between two others": (lambda_h + ratio * gap * other, within * (k - 2)),
        "within, off span": (lambda_h, within * off),
        "size of the frame": (deformation(towards), 1),
        **_uneven(k, d, (lambda_w, lambda_h), theta, bias=bias, decay=bias_decay),
        "angles of the means": (deformation(other), max(0, k * (k - 3) // 2)),
        "rotations": (0.0, (k - 1) * (k - 2) // 2 + (k - 1) * off),
    }
    stiffness = np.array([value for value, _ in table.values()])
    return CrossEntropySpectrum(
        names=tuple(table),
        stiffness=stiffness,
        eigenvalues=beta / (beta + stiffness),
        multiplicities=np.array([count for _, count in table.values()]),
    )


def _deformation(c0: float, ratio: float, gap: float, x: float) -> float:
    """σ(x) = 4 s0 c0 g x/(c0 + g x)."""
    return 4 * ratio * c0 * gap * x / (c0 + gap * x)


def _uneven(
    k: int, d: int, decays: tuple[float, float], theta: float, *, bias: bool, decay: bool
) -> dict[str, tuple[float, int]]:
    """Stiffness and multiplicity of unequal lengths of the means and of a shift of all.

    For u_k = x a_k r_k + yRᵀa with Σa = 0, |a| = 1 (r_k the rows of R) and V = ξ diag(a)R, less its
    best common row, b = ta: with s = αx + mξ, τ = αy - mξ/K + t, A = p_y, B = p_other

        A(s + τ)² + (K-1)Bτ² - (As + θτ)² - (1 - 2/K)(2c0 ξx - λ_W ξ²) + λ_W t²

    least over ξ and t, in units of (1 - 1/K)x² + 2xy + Ky² = Σ|u_k|², and λ_H.
    """
    lambda_w, lambda_h = decays
    c0, ratio = math.sqrt(lambda_w * lambda_h), math.sqrt(lambda_h / lambda_w)
    gap, other = math.log1p(k * theta / (1 - theta)), (1 - theta) / k
    own, rest = other + theta, 1 - 2 / k
    if bias and not decay:
        lengths = _deformation(c0, ratio, gap, k * other * own / (1 + theta))
        return {
            "lengths of the means": (lengths, (k - 1) * (k > 2)),
            "shift of all": (lambda_h, d),
        }
    alpha, m = math.sqrt(gap * ratio), math.sqrt(gap / ratio)
    # In (x, y, ξ, t): s, τ as rows of coefficients.
    s = np.array([alpha, 0.0, m, 0.0])
    tau = np.array([0.0, alpha, -m / k, float(bias)])
    both, mean = s + tau, own * s + theta * tau
    form = own * np.outer(both, both) + (k - 1) * other * np.outer(tau, tau) - np.outer(mean, mean)
    form[2, 2] += lambda_w * rest
    form[0, 2] -= c0 * rest
    form[2, 0] -= c0 * rest
    form[3, 3] += lambda_w if bias else 1.0
    keep, free = ([0, 1], [2, 3]) if k > 2 else ([1], [3])  # of two classes there is one length
    across = form[np.ix_(keep, free)]
    reduced = form[np.ix_(keep, keep)] - across @ np.linalg.solve(
        form[np.ix_(free, free)], across.T
    )
    metric = np.array([[1 - 1 / k, 1.0], [1.0, float(k)]])[np.ix_(keep, keep)]
    root = np.linalg.inv(np.linalg.cholesky(metric))
    values = lambda_h + np.linalg.eigvalsh(root @ reduced @ root.T)
    names = ("shift of all in the span", "lengths of the means, and such a shift")
    mixed = {name: (float(v), k - 1) for name, v in zip(names, values, strict=False)}
    return {**mixed, "shift of all, off span": (lambda_h, d - k + 1)}


def _smoothing(value: float) -> float:
    smoothing = nonnegative(value, "label_smoothing")
    if smoothing >= 1:
        raise ValueError(f"label_smoothing must be < 1, got {smoothing}")
    return smoothing

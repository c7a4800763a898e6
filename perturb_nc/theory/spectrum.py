"""Exact spectrum of the response at the collapsed optimum (Tirer et al. 2023, Theorem 4.2)."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perturb_nc.summary import Summarised
from perturb_nc.validation import at_least, positive


@dataclass(frozen=True, repr=False)
class NearCollapseSpectrum(Summarised):
    """Eigenvalues of F (dN×dN), δH = F δH0, at an exactly collapsed H0 = H*, for any β > 0.

    The four kinds of perturbation, in the order of the arrays: within classes inside the span of
    the class means; within classes outside; rotations of the frame of means; symmetric deformations
    of it. F is symmetric, so its singular values are these too.

    Attributes:
        eigenvalues: (4,), all in (0, 1].
        multiplicities: (4,), adding up to dN.
        block_values, block_multiplicities: singular values of a diagonal block F_kk (dn×dn).
        off_block_value: the one non-zero singular value of every off-diagonal block F_kj.
        large_beta_block_values: block_values to O(1/β), as the paper states them: the smallest is
            σ_min(F_kk) = 1 - β⁻¹√(λ_H/λ_W).
        large_beta_off_block_value: σ_max(F_kj) = 2β⁻¹λ_H(1-c0), the paper's O(1/β) form.
    """

    names = ("within, in span", "within, off span", "rotations", "deformations")
    block_names = (
        "within, in span", "within, off span", "mean, off span", "mean, across", "mean, along",
    )  # fmt: skip

    eigenvalues: NDArray[np.float64]
    multiplicities: NDArray[np.int64]
    block_values: NDArray[np.float64]
    block_multiplicities: NDArray[np.int64]
    off_block_value: float
    large_beta_block_values: NDArray[np.float64]
    large_beta_off_block_value: float


def near_collapse_spectrum(
    *,
    num_classes: int,
    dim: int,
    samples_per_class: int,
    lambda_w: float,
    lambda_h: float,
    beta: float,
) -> NearCollapseSpectrum:
    """Spectrum of the first-order response at the collapsed optimum.

    Holds for classes of one size, no bias, c0 = √(λ_W λ_H) < 1, d >= K, any β > 0, and H0 = H*
    exactly collapsed. With bias or classes of several sizes there are other eigenvalues, and away
    from collapse F is not symmetric and can have singular values above 1: `linear_response`.

    Args:
        num_classes: K >= 2.
        dim: d >= K.
        samples_per_class: n >= 1.
        lambda_w, lambda_h: λ_W, λ_H > 0 with c0 = √(λ_W λ_H) < 1.
        beta: β > 0.

    Raises:
        ValueError: arguments out of range; c0 >= 1, where the optimum is zero.

    Example:
        >>> sizes = {"num_classes": 4, "dim": 6, "samples_per_class": 5}
        >>> found = pnc.near_collapse_spectrum(**sizes, lambda_w=0.04, lambda_h=0.01, beta=1.0)
        >>> found.eigenvalues.round(3).tolist(), int(found.multiplicities.sum())
        ([0.667, 0.99, 1.0, 0.962], 120)

    See Also:
        linear_response: anywhere. exact_collapse: the optimum. plot_spectrum: its picture.

    Source: Tirer et al. 2023, Theorem 4.2, for large β; exact for every β: docs §4.4.
    """
    k = at_least(num_classes, 2, "num_classes")
    d, n = at_least(dim, k, "dim"), at_least(samples_per_class, 1, "samples_per_class")
    lambda_w, lambda_h = positive(lambda_w, "lambda_w"), positive(lambda_h, "lambda_h")
    beta = positive(beta, "beta")
    if k * d * n >= 2**63:
        raise ValueError(
            f"num_classes * dim * samples_per_class must be < 2^63 to be counted, got {k * d * n}"
        )
    c0 = math.sqrt(lambda_w * lambda_h)
    if c0 >= 1:
        raise ValueError(
            f"lambda_w * lambda_h must be < 1, got {c0**2:g}; from 1 on the optimum is zero"
        )
    # Each kind of perturbation feels a stiffness s beside the anchor and shrinks by β/(β + s).
    in_span, off_span = math.sqrt(lambda_h / lambda_w), lambda_h
    deformation = 4 * lambda_h * (1 - c0)
    stiffness = np.array([in_span, off_span, 0.0, deformation])
    eigenvalues = beta / (beta + stiffness)
    multiplicities = [
        k * k * (n - 1), (d - k) * k * (n - 1), (d - k) * k + k * (k - 1) // 2, k * (k + 1) // 2,
    ]  # fmt: skip
    # One class mean moved alone: along its own frame vector it only deforms; across, it is half a
    # rotation and half a deformation.
    along = eigenvalues[3]
    linear = 1 - np.array([in_span, off_span, 0.0, deformation / 2, deformation]) / beta
    return NearCollapseSpectrum(
        eigenvalues=eigenvalues,
        multiplicities=np.array(multiplicities),
        block_values=np.array([*eigenvalues[:2], 1.0, (1 + along) / 2, along]),
        block_multiplicities=np.array([k * (n - 1), (d - k) * (n - 1), d - k, k - 1, 1]),
        off_block_value=(1 - along) / 2,
        large_beta_block_values=linear,
        large_beta_off_block_value=deformation / (2 * beta),
    )

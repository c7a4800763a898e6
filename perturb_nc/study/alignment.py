"""Layers that do not share a basis, rotated onto each other by their class means."""

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics, check_full


def procrustes_rotation(statistics: ClassStatistics, to: ClassStatistics) -> Float64[Tensor, "d d"]:
    """The orthogonal R that brings the class means nearest to those of another layer.

    R minimises Σ_k π_k |R μ_k - ν_k|² (orthogonal Procrustes, Schönemann 1966): with the singular
    value decomposition Σ_k π_k ν_k μ_kᵀ = U S Vᵀ of rank r, R = U_r V_rᵀ on the span of V_r. The
    class means say nothing about the rest, where R is as near to the identity as it can be.

    Args:
        statistics: of the layer to rotate, class means μ_k.
        to: of the layer to rotate it onto, class means ν_k.

    Raises:
        ValueError: layers that differ in the number of classes or in dimension.
    """
    check_full(statistics)
    check_full(to, "to")
    if statistics.means.shape != to.means.shape:
        raise ValueError(
            f"to must have the shape (K, d) of statistics, {tuple(statistics.means.shape)}, got "
            f"{tuple(to.means.shape)}; rotate layers of one width and one set of classes"
        )
    cross = (to.means * statistics.priors[:, None]).mT @ statistics.means
    u, sizes, vh = torch.linalg.svd(cross)
    rank = int((sizes > len(cross) * torch.finfo(cross.dtype).eps * sizes[0]).sum())
    free_u, free_v = u[:, rank:], vh[rank:]
    # The orthogonal Q nearest to the identity, tr(free_u Q free_v) being largest: a polar factor.
    left, _, right = torch.linalg.svd(free_u.mT @ free_v.mT)
    return u[:, :rank] @ vh[:rank] + free_u @ left @ right @ free_v


def align(statistics: ClassStatistics, to: ClassStatistics) -> ClassStatistics:
    """The statistics in the basis in which its class means are nearest to those of `to`.

    All features h become R h with R of `procrustes_rotation`; no collapse metric changes.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> turned = pnc.ClassStatistics.from_features(features.roll(1, dims=1), labels)
        >>> found = pnc.align(turned, statistics)
        >>> (found.means - statistics.means).norm() < 0.2 * (turned.means - statistics.means).norm()
        tensor(True)

    See Also:
        fit_regularization, compare_layers: what needs layers in one basis.
    """
    rotation = procrustes_rotation(statistics, to)
    within = rotation @ statistics.within @ rotation.mT
    return ClassStatistics(
        counts=statistics.counts,
        means=statistics.means @ rotation.mT,
        within=(within + within.mT) / 2,
        class_variance=statistics.class_variance,
    )

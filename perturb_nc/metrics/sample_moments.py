"""Moments of a finite sample without the sampling bias, which its size puts into them.

The mean of n samples misses that of the class by noise of variance tr Σ_k/n, which plug-in metrics
count as distance between classes. Here it is taken off first: with v̂_k = v_k n_k/(n_k - 1), the
unbiased variance of class k, and J = I - 11ᵀ/K,

    M̃M̃ᵀ - J diag(v̂_k/n_k) J        has the Gram matrix of the true centred means as expectation,
    M̃Σ_WM̃ᵀ - J diag(t_k/n_k) J      that of the true means and Σ_W, t_k = tr(Σ_kΣ_W),

and the metrics are functions of these. Σ_W is scaled by N/(N - K); for t_k the class covariances
are taken to share one shape and the features to be near Gaussian. Ratios of unbiased estimates keep
a sampling bias of second order.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.metrics.mean_geometry import etf_gram, helmert
from perturb_nc.moments import trace
from perturb_nc.span_statistics import SpanStatistics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.validation import check_pairs

Values = Float64[Tensor, "..."]
Table = Float64[Tensor, "... K K"]


@dataclass(frozen=True, eq=False)
class SampleMoments:
    """What debiased metrics are functions of, of one sample or (leading axes) of many.

    Attributes:
        gram: M̃M̃ᵀ of the plain class means.
        spread: M̃Σ_WM̃ᵀ with Σ_W = (sum over classes of their scatter)/(N - K).
        variance: v̂_k.
        counts: n_k.
        square: unbiased tr Σ_W².
        priors: π_k of the design, which weight the variances.
        basis: K×(K-1), an orthonormal basis of 1⊥.
        full: whether K - 1 class means can be independent, d >= K - 1.
        target: the Gram matrix of a simplex ETF.
    """

    gram: Table
    spread: Table
    variance: Float64[Tensor, "... K"]
    counts: Float64[Tensor, "... K"]
    square: Values
    priors: Float64[Tensor, "K"]
    basis: Float64[Tensor, "K r"]
    full: bool
    target: Float64[Tensor, "K K"]

    @classmethod
    def of(cls, statistics: ClassStatistics | SpanStatistics) -> "SampleMoments":
        """Those of class statistics; variances of single samples are NaN."""
        n, k = statistics.counts.double(), statistics.num_classes
        check_pairs(k, "debiased metrics", 5, n.device)
        free = n.sum() - k
        within = statistics.within * (n.sum() / free)
        means = statistics.centered_means
        square = unbiased_square(within.square().sum(), trace(within), free)
        if isinstance(statistics, SpanStatistics):
            square = torch.full_like(square, math.nan)  # of the span alone: not known
        return cls(
            gram=means @ means.mT,
            spread=means @ within @ means.mT,
            variance=statistics.class_variance * n / (n - 1),
            counts=n,
            square=square,
            priors=n / n.sum(),
            basis=helmert(statistics),
            full=statistics.dim >= k - 1,
            target=etf_gram(statistics),
        )

    def within_trace(self) -> Values:
        """Σ π_k v̂_k."""
        return (self.priors * self.variance).sum(-1)

    def true_gram(self) -> Table:
        """M̃M̃ᵀ - J diag(v̂_k/n_k) J."""
        return self.gram - centered_rows(self.variance / self.counts)

    def distances(self) -> Table:
        """‖μ_c - μ_c'‖² - v̂_c/n_c - v̂_c'/n_c' for every pair of classes, unbiased."""
        gram = self.true_gram()
        sizes = gram.diagonal(dim1=-2, dim2=-1)
        return sizes[..., :, None] + sizes[..., None, :] - 2 * gram

    def values(self) -> dict[str, Values]:
        """Debiased metrics by the names of the plain ones, and "between_trace"; NaN as there.

        nc1 and nc1_span are below 0 where noise hides M̃Σ_WM̃ᵀ.
        """
        gram, k = self.true_gram(), self.gram.shape[-1]
        sizes = gram.diagonal(dim1=-2, dim2=-1)
        between, within = sizes.sum(-1) / k, self.within_trace()
        between = torch.where(between > 0, between, torch.nan)
        inverse, inside = self._spreads(gram)
        i, j = torch.triu_indices(k, k, 1, device=gram.device)
        distance = self.distances()[..., i, j]
        distance = torch.where(distance > 0, distance, torch.nan)
        pairs = (self.variance[..., i] + self.variance[..., j]) / (2 * distance)
        norms = torch.where(sizes > 0, sizes, torch.nan).sqrt()
        cosines = gram[..., i, j] / (norms[..., i] * norms[..., j])
        unit = gram / torch.linalg.matrix_norm(gram, keepdim=True)
        return {
            "between_trace": between,
            "nc1_trace": within / between,
            "nc1": inverse,
            "nc1_span": inside / between,
            "cdnv": pairs.mean(-1),
            "within_share": within / (within + between),
            "nc2_etf": torch.linalg.matrix_norm(unit - self.target),
            "nc2_equinorm": norms.std(-1, correction=0) / norms.mean(-1),
            "nc2_equiangular": (cosines + 1 / (k - 1)).abs().mean(-1),
        }

    def _spreads(self, gram: Table) -> tuple[Values, Values]:
        """tr(G⁻¹CG⁻¹) = NC1 and tr(G⁻¹C) = tr(PΣ_W) with G, C debiased, in contrasts."""
        if not self.full:
            return torch.full_like(self.square, torch.nan), torch.full_like(self.square, torch.nan)
        shape = self.variance / self.within_trace()[..., None]
        noise = centered_rows(shape * self.square[..., None] / self.counts)
        spread = self.basis.mT @ (self.spread - noise) @ self.basis
        root, failed = torch.linalg.cholesky_ex(self.basis.mT @ gram @ self.basis)
        turned = torch.cholesky_solve(spread, root)
        inverse = trace(torch.cholesky_solve(turned.mT, root))
        bad = (failed > 0) | ~torch.isfinite(inverse)
        return torch.where(bad, torch.nan, inverse), torch.where(bad, torch.nan, trace(turned))


def unbiased_square(square: Values, size: Values, free: Values) -> Values:
    """tr Σ² from tr S² and tr S of an unbiased Gaussian S with so many degrees of freedom."""
    return (square - size.square() / free) * free.square() / ((free - 1) * (free + 2))


def centered_rows(diagonal: Float64[Tensor, "... K"]) -> Table:
    """J diag J."""
    table = torch.diag_embed(diagonal)
    table = table - table.mean(-1, keepdim=True)
    return table - table.mean(-2, keepdim=True)

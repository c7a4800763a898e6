"""Sums over samples that come in batches, from several processes, or in chunks."""

from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from perturb_nc.validation import ArrayLike, affordable, as_features, as_labels, at_least

_CHUNK_BYTES = 16 * 2**20  # float64 working copy of one chunk of samples, of which there are six
Own = TypeVar("Own", bound="Accumulation")


class Accumulation:
    """Class sizes, means and scatter of the batches seen so far.

    Each batch is centred on its own class means and joined to the rest by the pairwise update of
    Chan, Golub & LeVeque (1983): scatter_ab = scatter_a + scatter_b + (n_a n_b / (n_a + n_b)) δδᵀ
    per class. Nothing cancels, so a common offset of the features does no harm, and the order of
    the batches changes rounding only. A batch costs one matrix product, O(N_batch d²). Under
    torch.inference_mode its tensors are ordinary ones, to be added to and computed with anywhere.
    """

    def __init__(self, num_classes: int | None = None) -> None:
        self._fixed = num_classes is not None
        size = at_least(num_classes, 2, "num_classes") if num_classes is not None else 0
        self._counts = torch.zeros(size, dtype=torch.int64)
        self._class_scatter = torch.zeros(size, dtype=torch.float64)
        self._means = torch.zeros(size, 0, dtype=torch.float64)  # d comes with the first batch
        self._scatter = torch.zeros(0, 0, dtype=torch.float64)

    @torch.inference_mode(False)
    def update(self, features: ArrayLike, labels: ArrayLike) -> None:
        """Add a batch of features (N, d) and labels (N,)."""
        x = as_features(features, dim=self._means.shape[1] or None)
        limit = len(self._counts) if self._fixed else None
        y = as_labels(labels, len(x), num_classes=limit).to(x.device)
        present, local, counts = torch.unique(y, return_inverse=True, return_counts=True)
        x = x.double()
        means = x.new_zeros(len(present), x.shape[1]).index_add_(0, local, x) / counts[:, None]
        deviations = x - means[local]
        scatter = x.new_zeros(len(present)).index_add_(0, local, deviations.square().sum(1))
        self._reserve(int(present.max()) + 1, means)
        between = self._absorb(present, counts, means, scatter)
        self._add_gram(torch.cat([deviations, between]))

    @torch.inference_mode(False)
    def merge(self, other: "Accumulation") -> None:
        """Add all that another one has seen."""
        d, other_d = self._means.shape[1], other._means.shape[1]
        if other_d == 0:
            return
        if d not in (0, other_d):
            raise ValueError(
                f"cannot merge features of dimension {other_d} into dimension {d}; "
                "merge statistics of one layer only"
            )
        if self._fixed and len(other._counts) > len(self._counts):
            raise ValueError(
                f"cannot merge {len(other._counts)} classes into num_classes = "
                f"{len(self._counts)}; build both with the larger number"
            )
        self._reserve(len(other._counts), other._means)
        present = other._counts.nonzero().flatten()
        parts = (present, other._counts[present], other._means[present])
        device = self._counts.device
        rows = self._absorb(*(p.to(device) for p in (*parts, other._class_scatter[present])))
        self._scatter += other._scatter.to(device)
        self._add_gram(rows)

    @torch.inference_mode(False)
    def all_reduce(self: Own, group: "torch.distributed.ProcessGroup | None" = None) -> Own:
        """A new one with the samples of every process of a torch.distributed group.

        Every process must call it; a process that saw no sample may take part. The local one
        stays as it was.
        """
        from torch.distributed import ReduceOp, all_reduce

        device = self._counts.device
        dim = self._means.shape[1]
        # -d beside d: the largest and the smallest dimension in one reduction.
        sizes = torch.tensor([len(self._counts), dim, -dim or -(2**62)], device=device)
        all_reduce(sizes, ReduceOp.MAX, group)
        num_classes, dim, smallest = sizes.tolist()
        if dim and dim != -smallest:
            raise ValueError(f"processes hold features of dimension {-smallest} and {dim}")
        total = type(self)(num_classes if self._fixed else None)
        if not dim:
            return total
        total._reserve(num_classes, torch.zeros(0, dim, dtype=torch.float64, device=device))
        total.merge(self)
        counts, own_counts = total._counts.clone(), total._counts.double()
        sums = total._means * own_counts[:, None]
        all_reduce(counts, ReduceOp.SUM, group)
        all_reduce(sums, ReduceOp.SUM, group)
        means = torch.where(counts[:, None] > 0, sums / counts[:, None], 0.0)
        rows = (total._means - means) * own_counts.sqrt()[:, None]
        total._add_gram(rows)
        total._class_scatter += rows.square().sum(1)
        all_reduce(total._scatter, ReduceOp.SUM, group)
        all_reduce(total._class_scatter, ReduceOp.SUM, group)
        total._counts, total._means = counts, means
        return total

    def state(self) -> dict[str, Tensor]:
        """The sums: counts (K,), means (K, d), scatter (d, d) and class_scatter (K,)."""
        return {
            "counts": self._counts,
            "means": self._means,
            "scatter": self._scatter,
            "class_scatter": self._class_scatter,
        }

    @classmethod
    def resumed(cls: type[Own], state: Mapping[str, Tensor]) -> Own:
        """One with the sums of `state`, copied, for the same number of classes."""
        own = cls(len(state["counts"]))
        for name, value in state.items():
            setattr(own, f"_{name}", value.clone())
        return own

    def _reserve(self, num_classes: int, like: Float64[Tensor, "n d"]) -> None:
        """Room for num_classes classes, on the device and of the dimension of `like`."""
        if self._means.shape[1] == 0:
            d = like.shape[1]
            affordable(
                3 * 8 * d * d,  # the covariance and two working copies of it
                f"the covariance of features of dimension d = {d}",
                "reduce d first: average-pool or project the features "
                "(collect_statistics(..., reduce='pool'))",
                like.device,
            )
            self._scatter = like.new_zeros(d, d)
            self._means = like.new_zeros(len(self._counts), d)
            self._counts = like.new_zeros(len(self._counts), dtype=torch.int64)
            self._class_scatter = like.new_zeros(len(self._class_scatter))
        grow = num_classes - len(self._counts)
        if grow > 0:
            pad = torch.nn.functional.pad
            self._counts = pad(self._counts, (0, grow))
            self._class_scatter = pad(self._class_scatter, (0, grow))
            self._means = pad(self._means, (0, 0, 0, grow))

    def _absorb(
        self,
        present: Int[Tensor, "c"],
        counts: Int[Tensor, "c"],
        means: Float[Tensor, "c d"],
        class_scatter: Float[Tensor, "c"],
    ) -> Float[Tensor, "c d"]:
        """Join new counts, means and variances; returns the rows √(n_a n_b/(n_a+n_b)) δ."""
        total = self._counts[present] + counts
        share = (counts.double() / total)[:, None]
        delta = means - self._means[present]
        rows = delta * (self._counts[present][:, None] * share).sqrt()
        self._means[present] += delta * share
        self._class_scatter[present] += class_scatter + rows.square().sum(1)
        self._counts[present] = total
        return rows

    def _add_gram(self, rows: Float[Tensor, "n d"]) -> None:
        self._scatter.addmm_(rows.mT, rows)


def chunks(features: Tensor) -> Iterator[slice]:
    """Rows at a time that keep working copies small, and the product for d×d worth its while."""
    d = features.shape[1]
    rows = max(1, _CHUNK_BYTES // (8 * d), d // 8)
    return (slice(start, start + rows) for start in range(0, len(features), rows))

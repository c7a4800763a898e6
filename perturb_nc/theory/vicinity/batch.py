"""Collapse metrics near collapse at millions of settings: scalars only, once a frame is found."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.summary import Summarised
from perturb_nc.theory.collapse import simplex_etf
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.vicinity.classes import nearly_balanced
from perturb_nc.theory.vicinity.coefficients import Coefficients, coefficients
from perturb_nc.theory.vicinity.frame import NearestFrame, nearest_frame
from perturb_nc.theory.vicinity.jet import Jet
from perturb_nc.validation import ArrayLike, as_tensor, check_pairs

_CHUNK = 1 << 14  # settings at once: what fits into a core's cache
_UNEQUAL = 0.6  # the largest |Kπ - 1| that is expanded in
METRICS = ("nc1_trace", "nc1", "nc2_etf")


@dataclass(frozen=True, eq=False, repr=False)
class SmallVicinityBatch(Summarised):
    """ÑC1, NC1 and NC2 near collapse; tensors have the shape of the settings.

    Attributes:
        metrics: name → value; NaN where λ_W λ_H >= 1.
        derivatives: name → parameter → derivative in the log of the parameter. That of a metric
            that is 0 is NaN where it is a distance.
        distance: |H0 - √ρ frame| / |√ρ frame|; a prediction leaves out its square (in means) and
            the square of tr Σ_W0/ρ: `small_vicinity` estimates what that comes to.
    """

    metrics: dict[str, Float64[Tensor, "..."]]
    derivatives: dict[str, dict[str, Float64[Tensor, "..."]]]
    distance: Float64[Tensor, "..."]


def small_vicinity_batch(
    statistics: ClassStatistics,
    *,
    lambda_w: ArrayLike,
    lambda_h: ArrayLike,
    beta: ArrayLike,
    bias: bool = False,
) -> SmallVicinityBatch:
    """ÑC1, NC1 and NC2 of `small_vicinity` and their derivatives at many settings.

    ÑC1 and NC2 are those of its first-order statistics, exactly; NC1 is to two orders in the
    distance from collapse (one more than those statistics have), which saves an inverse a setting.

    Args:
        statistics: class statistics of H0; classes nearly balanced (within 60 % of N/K).
        lambda_w, lambda_h, beta: numbers or arrays that broadcast, all > 0.
        bias: whether the last layer has a bias.

    Raises:
        ValueError: settings that are not > 0 or do not broadcast; statistics without a nearest
            frame, as in `small_vicinity`, or of unequal classes.

    Source: docs §4.7.
    """
    check_full(statistics)
    check_pairs(statistics.num_classes, "a frame", 4, statistics.means.device)
    frame = balanced_frame(statistics, bias)
    values = settings_of(lambda_w, lambda_h, beta, statistics.means.device)
    table = _Table(frame)
    vanished = values[0] * values[1] >= 1  # the optimum is zero
    flat = [torch.where(vanished, torch.nan, v).reshape(-1) for v in values]
    parts = [
        table.evaluate(*(v[start : start + _CHUNK] for v in flat))
        for start in range(0, len(flat[0]), _CHUNK)
    ]
    shape = values[0].shape
    metrics, derivatives = {}, {}
    for i, name in enumerate(METRICS):
        metrics[name] = torch.cat([part[i].value for part in parts]).reshape(shape)
        slopes = torch.cat([part[i].slope for part in parts], dim=1)
        derivatives[name] = {p: slopes[j].reshape(shape) for j, p in enumerate(HYPERPARAMETERS)}
    distance = torch.cat([part[-1].value for part in parts]).reshape(shape)
    return SmallVicinityBatch(metrics, derivatives, distance)


def balanced_frame(statistics: ClassStatistics, bias: bool) -> NearestFrame:
    """`nearest_frame` of nearly balanced classes; ValueError for others."""
    if not nearly_balanced(statistics, _UNEQUAL):
        raise ValueError(
            f"statistics must have nearly balanced classes, got {statistics.counts.tolist()} "
            "samples; take small_vicinity, which goes class by class, or minimize_batch"
        )
    return nearest_frame(statistics, bias)


class _Table:
    """Everything about the reference features that a setting needs, as numbers.

    The Gram matrix of the predicted means in the contrasts, MᵀM = L² + f²Z, L = αI + Σ x_iP_i,
    is a sum of fixed matrices times products of scalars: its trace is linear in these products,
    the squared norm of its traceless part quadratic.
    """

    def __init__(self, frame: NearestFrame) -> None:
        k = frame.reference.num_classes
        rank = len(frame.stretch)
        identity = torch.diag(frame.stretch.new_ones(rank))
        # Without bias the metrics look at K-1 contrasts of the K means.
        seen = identity if frame.has_bias else simplex_etf(k, k - 1).to(identity)
        self.num_classes, self.rank = k, k - 1
        self.traces, self.imbalanced = frame.traces, bool(frame.imbalance.any())
        self.level, self.load = (
            frame.stretch.trace().item() / rank,
            frame.within.trace().item() / rank,
        )
        deviators = [frame.stretch - self.level * identity, frame.within - self.load * identity]
        deviators += [frame.imbalance] if self.imbalanced else []
        off = frame.across @ frame.across.mT
        factors = [identity, *deviators]
        products = [
            a @ b if i == j else a @ b + b @ a
            for i, a in enumerate(factors)
            for j, b in enumerate(factors[i:], i)
        ]
        grams = torch.stack([seen.mT @ m @ seen for m in [*products, off]])
        self.sizes = grams.diagonal(dim1=1, dim2=2).sum(1)
        identity = torch.diag(grams.new_ones(self.rank))
        traceless = grams - (self.sizes / self.rank)[:, None, None] * identity
        self.spread = torch.einsum("aij,bij->ab", traceless, traceless)
        self.within = (seen.mT @ frame.within @ seen).trace().item()
        own = seen.mT @ frame.within @ seen
        self.tilts = [
            (
                (seen.mT @ p @ frame.within @ seen).trace() - 2 * ((seen.mT @ p @ seen) * own).sum()
            ).item()
            for p in deviators
        ]
        self.off = (seen.mT @ off @ seen).trace().item()
        stretch = deviators[0].square().sum().item()
        self.deformation = (rank, stretch, k * frame.reference.within.trace().item())

    def evaluate(self, w: Tensor, h: Tensor, b: Tensor) -> tuple[Jet, Jet, Jet, Jet]:
        """The metrics of some settings, and the distance."""
        s = coefficients(w, h, b, self.num_classes)
        means = s.means
        alpha = means.identity + means.stretch * self.level + means.within * self.load
        parts = [means.stretch, means.within] + [means.imbalance] * self.imbalanced
        total, spread = self._gram([alpha, *parts], means.across)
        return (
            self._variance(s) * self.num_classes / total,
            self._nc1(s, alpha, parts),
            _chord(spread, total * self.rank**-0.5),
            self._distance(s),
        )

    def _gram(self, factors: Sequence[Jet], across: Jet) -> tuple[Jet, Jet]:
        """tr MᵀM and the squared norm of its traceless part."""
        products = [a * b for i, a in enumerate(factors) for b in factors[i:]]
        products.append(across * across)
        values = torch.stack([p.value for p in products])
        slopes = torch.stack([p.slope for p in products], dim=1)
        pulled = self.spread @ values
        total = Jet(self.sizes @ values, self.sizes @ slopes)
        return total, Jet((values * pulled).sum(0), 2 * (slopes * pulled).sum(1))

    def _variance(self, s: Coefficients) -> Jet:
        """tr Σ_W."""
        inside, _, off = s.attenuations
        return inside * self.traces[0] + off * self.traces[1]

    def _nc1(self, s: Coefficients, alpha: Jet, parts: Sequence[Jet]) -> Jet:
        """tr(A†Σ_WA†ᵀ), A = M in the contrasts, to two orders."""
        inside, across, _ = s.attenuations
        change = parts[0] * self.tilts[0]
        for part, tilt in zip(parts[1:], self.tilts[1:], strict=True):
            change = change + part * tilt
        beyond = across * s.means.across * self.off + inside * change
        return (inside * self.within + beyond * 2.0 / alpha) / (alpha * alpha)

    def _distance(self, s: Coefficients) -> Jet:
        """|H0 - √ρ frame|/|√ρ frame|."""
        rank, stretch, within = self.deformation
        gap = self.level - s.size
        square = (gap * gap * float(rank) + (stretch + within)) / (s.size * s.size * float(rank))
        return square.sqrt()


def _chord(square: Jet, along: Jet) -> Jet:
    """The distance of G/‖G‖ from its own multiple of I: 2 sin(θ/2), tan θ = √square/along."""
    across = square.sqrt()
    norm = along.value.square() + square.value
    angle = torch.atan2(across.value, along.value)
    slope = (across.slope * along.value - along.slope * across.value) / norm
    return Jet(2 * (angle / 2).sin(), slope * (angle / 2).cos())


def settings_of(
    lambda_w: ArrayLike,
    lambda_h: ArrayLike,
    beta: ArrayLike,
    device: torch.device | str | None = None,
) -> tuple[Tensor, ...]:
    """Arrays of settings, checked and broadcast; on the device of lambda_w unless said."""
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    device = as_tensor(lambda_w, "lambda_w").device if device is None else device
    values = []
    for name, value in given.items():
        as_tensor(value, name)  # an array of numbers; its Python floats would be float32
        array = torch.as_tensor(value, dtype=torch.float64, device=device).detach()
        if (bad := ~((array > 0) & array.isfinite())).any():
            raise ValueError(f"{name} must be > 0 and finite, got {array[bad][0].item()}")
        values.append(array)
    try:
        return torch.broadcast_tensors(*values)
    except RuntimeError:
        shapes = {name: tuple(v.shape) for name, v in zip(given, values, strict=True)}
        raise ValueError(f"settings must broadcast against each other, got {shapes}") from None

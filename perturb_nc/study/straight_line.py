"""Layers on the straight line between the ends of a stage, and how straight they are."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import scipy  # its parts load, slowly, when they are first used

from perturb_nc.joint_statistics import JointStatistics
from perturb_nc.metrics import table as metric_functions
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.rivals import Prediction, Stage, Vector
from perturb_nc.validation import at_least

_EXACT = 1e-10  # of τ


def on_line(joint: JointStatistics, share: float) -> ClassStatistics:
    """Class statistics of (1 - τ)h_0 + τh_L.

    M = (1-τ)M_0 + τM_L and Σ_W = (1-τ)²Σ_0 + τ(1-τ)(C + Cᵀ) + τ²Σ_L, C their within-class
    cross-covariance. docs §4.8.
    """
    return joint.mixed(1 - share, share)


def straight_line(stage: Stage) -> Prediction:
    """The line between measured ends, in equal steps."""
    steps = len(stage.names) - 1
    return _on_line(stage, lambda _, name: stage.names.index(name) / steps)


def straight_line_displacement(stage: Stage) -> Prediction:
    """The line between measured ends, a layer where its class means are on their way."""
    return _on_line(stage, lambda _, name: stage.displacement(name))


def straight_line_placed(stage: Stage) -> Prediction:
    """The line between measured ends, a layer where the line has its placing metric."""
    return _on_line(stage, partial(share_of, stage))


def _on_line(stage: Stage, share: Callable[[JointStatistics, str], float]) -> Prediction:
    joint = stage.joint
    if joint is None:
        return Prediction({}, {})
    shares = {name: share(joint, name) for name in stage.names[1:]}
    found = {name: on_line(joint, t) for name, t in shares.items() if not math.isnan(t)}
    return Prediction.of(found, frozenset({stage.names[-1]}))


def share_of(stage: Stage, joint: JointStatistics, name: str) -> float:
    """τ at which a line has a layer's placing metric; NaN where it does not get there."""
    metric, wanted = getattr(metric_functions, stage.metric), stage.value(name)

    def excess(share: float) -> float:
        """By how much the metric there is above what is wanted, in the log."""
        return math.log(metric(on_line(joint, share)).item() / wanted)

    ends = excess(0.0), excess(1.0)
    if abs(ends[1]) < _EXACT:
        return 1.0
    if ends[0] * ends[1] > 0:
        return math.nan
    return float(scipy.optimize.brentq(excess, 0.0, 1.0, xtol=_EXACT))


@dataclass(frozen=True, eq=False)
class Straightness:
    """How straight the way of the samples through the layers is. docs §5.

    Lengths are root mean squares over the samples, relative to that from first to last layer.

    Attributes:
        line_shape: L/|x̃_L - x̃_0| with x̃ the layers in steps of length 1; 1 on a line (Gai & Zhang
            2021), all samples taken as one vector.
        path_ratio: Σ|x_l - x_{l-1}| / |x_L - x_0|.
        steps: |x_l - x_{l-1}| of each layer but the first.
        shares: τ of the point of the line from x_0 to x_L nearest to each layer.
        off_line: distance of each layer from that point.
    """

    line_shape: float
    path_ratio: float
    steps: Vector
    shares: Vector
    off_line: Vector


def straightness(joints: Mapping[tuple[str, str], JointStatistics]) -> Straightness:
    """Of layers of one width, from the joint statistics of every pair of them.

    ⟨x_l, x_m⟩ = Σ_k π_k μ_k·μ'_k + tr C is all that is needed, for the samples as one vector.

    Args:
        joints: (layer, later layer) → joint statistics, all pairs, in order of depth.

    Raises:
        ValueError: a pair that is missing, or layers that differ in width.
    """
    names = list(dict.fromkeys(name for pair in joints for name in pair))
    products = np.empty((len(names), len(names)))
    for j, last in enumerate(names):
        for i, first in enumerate(names[:j]):
            if (first, last) not in joints:
                raise ValueError(f"joints must hold every pair of layers, ({first}, {last}) is not")
            both = joints[first, last]
            if both.first.dim != both.last.dim:
                raise ValueError(f"layers must have one width, {first} and {last} do not")
            products[i, j] = products[j, i] = _product(both)
            products[i, i] = both.first.second_moment.trace().item()
            products[j, j] = both.last.second_moment.trace().item()
    return _straightness(products)


def straightness_of_means(layers: Mapping[str, ClassStatistics]) -> Straightness:
    """`straightness` of the centred class means instead of the samples: no joint statistics needed.

    Every class alike. It says less: samples may wander where their means go straight.

    Args:
        layers: two or more of one width, in order of depth, with a basis in common (as layers with
            skip connections have).

    Raises:
        ValueError: fewer than two layers, or layers that differ in width.
    """
    at_least(len(layers), 2, "the number of layers")
    widths = {name: s.dim for name, s in layers.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"layers must have one width, got {widths}")
    rows = np.array([s.centered_means.cpu().numpy().ravel() for s in layers.values()])
    return _straightness(rows @ rows.T)


def _straightness(products: Vector) -> Straightness:
    """From the products ⟨x_l, x_m⟩ of all layers; NaN where two that follow each other agree."""
    size = len(products)
    # Steps between layers, and what they add up to, in these products.
    difference = np.diff(np.eye(size), axis=0)
    between = difference @ products @ difference.T
    steps = np.sqrt(between.diagonal())
    steps[steps == 0] = np.nan
    whole = math.sqrt(between.sum()) or math.nan
    unit = between / np.outer(steps, steps)
    start = np.eye(size) - np.eye(size)[0]
    way = start @ products @ start.T  # of x_l - x_0
    shares = way[:, -1] / whole**2
    off = np.sqrt(np.maximum(way.diagonal() - shares**2 * whole**2, 0.0))
    return Straightness(
        line_shape=len(steps) / math.sqrt(unit.sum()),
        path_ratio=float(steps.sum() / whole),
        steps=steps / whole,
        shares=shares,
        off_line=off / whole,
    )


def _product(both: JointStatistics) -> float:
    means = both.first.priors @ (both.first.means * both.last.means).sum(1)
    return float(means + both.cross.trace())


def all_pairs(names: list[str]) -> list[tuple[str, str]]:
    """Every layer with every later one, neighbours first: what `straightness` needs."""
    pairs = list(pairwise(names))
    return pairs + [(a, b) for i, a in enumerate(names) for b in names[i + 2 :]]

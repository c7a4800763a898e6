"""What a chain of layers that is trained as a whole predicts of a stage (docs §4.8)."""

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import scipy  # its parts load, slowly, when they are first used
from torch import Tensor

from perturb_nc.metrics import table as metric_functions
from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.rivals import Prediction, Stage
from perturb_nc.study.sample_paths import SampleChain, sample_chain
from perturb_nc.study.straight_line import on_line, share_of
from perturb_nc.theory.flow.chain import Chain, chain

_TOL = 1e-6
_BETAS = (-14.0, 14.0)  # log of β
_NEAR = (0.0, 0.0)  # where the search for it starts

Layers = Mapping[str, ClassStatistics]


def on_chain(
    stage: Stage,
    layers: Callable[[Stage, Chain | SampleChain], Layers],
    lambda_w: float,
    decay: float = 0.0,
) -> Prediction:
    """The layers of the chain of equal steps whose last layer has its placing metric.

    Args:
        stage: whose first layer and the last one's placing metric are seen.
        layers: `equal_steps` or `placed_on_chain`.
        lambda_w: λ_W.
        decay: λ of the features of every layer, the last one's too; of the squared loss alone.

    Returns:
        With β (of the whole chain) and the spectral ratio of the certificate as parameters; empty
        where no β gives the last layer its metric, and for a decay with cross-entropy.
    """
    if decay and stage.start is not None:
        return Prediction({}, {})
    chains = stage.memory.setdefault("chains", {})  # they see no layer between
    if (lambda_w, decay) not in chains:
        chains[lambda_w, decay] = _solved(stage, lambda_w, decay)
    best = chains[lambda_w, decay]
    if best is None:
        return Prediction({}, {})
    return Prediction.of(
        layers(stage, best),
        beta=best.solution.problem.beta,
        spectral_ratio=best.solution.certificate.spectral_ratio,
    )


def equal_steps(stage: Stage, best: Chain | SampleChain) -> Layers:
    """The layers of the chain, of one β each."""
    return {name: best.statistics(i) for i, name in enumerate(stage.names[1:])}


def placed_on_chain(stage: Stage, best: Chain | SampleChain) -> Layers:
    """The line from first to last layer where it has the placing metric of each between."""
    *between, last = stage.names[1:]
    shares = {name: share_of(stage, best.ends, name) for name in between} | {last: 1.0}
    return {n: on_line(best.ends, share) for n, share in shares.items() if not math.isnan(share)}


def _solved(stage: Stage, lambda_w: float, decay: float) -> Chain | SampleChain | None:
    later = stage.names[1:]
    metric, wanted = getattr(metric_functions, stage.metric), stage.value(later[-1])
    found: dict[float, Chain | SampleChain] = {}

    @cache
    def excess(log_beta: float) -> float:
        # Equal steps, each of β times their number, from the weight of the nearest β.
        near = min(found, key=lambda at: abs(at - log_beta), default=None)
        weight = None if near is None else found[near].solution.weight
        found[log_beta] = _chained(stage, lambda_w, decay, math.exp(log_beta), weight)
        value = metric(found[log_beta].solution.statistics).item()
        return math.log(value / wanted) if value > 0 else -math.inf

    # The metric falls with 1/β, from the first layer's value on. The search starts at the β of the
    # nearest λ_W.
    known = stage.memory.setdefault("log_beta", {})
    low = high = min(known.items(), key=lambda at: abs(at[0] - math.log(lambda_w)), default=_NEAR)[
        1
    ]
    step = 0.5
    while excess(high) < 0:
        low, high, step = high, high + step, 2 * step
        if high > _BETAS[1]:
            return None
    while excess(low) > 0:
        high, low, step = low, low - step, 2 * step
        if low < _BETAS[0]:
            return None
    if not math.isfinite(excess(low)):
        return None
    log_beta = scipy.optimize.brentq(excess, low, high, xtol=1e-3, rtol=1e-5)
    if not found[log_beta].solution.status.is_done:
        return None
    known[math.log(lambda_w)] = log_beta
    return found[log_beta]


def _chained(
    stage: Stage, lambda_w: float, decay: float, beta: float, weight: Tensor | None
) -> Chain | SampleChain:
    """The chain with this β as a whole (but for the decay), under the loss of the stage."""
    steps = len(stage.names) - 1
    options: dict[str, Any] = {"lambda_w": lambda_w, "tol": _TOL, "initial_weight": weight}
    if stage.start is not None:
        return sample_chain(stage.start, beta=beta, length=steps, **options)
    options |= {"lambda_h": decay, "layer_decay": decay, "betas": [steps * beta] * steps}
    return chain(stage.layers[stage.names[0]], **options)

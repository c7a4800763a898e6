"""What λ_W, λ_H and β do to a prediction near collapse, in closed form."""

from collections.abc import Iterable

import torch
from torch import Tensor

from perturb_nc.metrics.table import metric_tensors
from perturb_nc.metrics.tangents import Change, metric_tangents
from perturb_nc.theory.hyperparameter_response import HyperparameterResponse
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.vicinity.coefficients import Coefficients
from perturb_nc.theory.vicinity.frame import NearestFrame
from perturb_nc.theory.vicinity.jet import Jet


def derivatives(
    frame: NearestFrame, scalars: Coefficients, problem: NearCollapseProblem
) -> HyperparameterResponse:
    """Of the first-order weight, statistics and metrics; of f by the envelope theorem."""
    reference, contrasts = frame.reference, frame.contrasts
    mean = reference.priors @ reference.means if frame.has_bias else 0.0

    def means(parts: list[Tensor], kept: Tensor) -> Tensor:
        """Class means of these parts."""
        return frame.of_classes(frame.mixed(*parts)) + kept * mean

    weight = contrasts @ frame.mixed(*_values(scalars.weight))
    own = means(_values(scalars.means), scalars.gamma_out.value)
    within = frame.filtered(*_values(scalars.attenuations))
    statistics = reference.moved(own, within)
    metrics = metric_tensors(statistics, weight)
    result = HyperparameterResponse({}, {}, {}, {}, {})
    for i, name in enumerate(HYPERPARAMETERS):
        parameter = getattr(problem, name)
        dw = contrasts @ frame.mixed(*_slopes(scalars.weight, i, parameter))
        kept = scalars.gamma_out.slope[i] / parameter
        moved = means(_slopes(scalars.means, i, parameter), kept)
        spread = frame.filtered(*_slopes(scalars.attenuations, i, parameter))
        total = reference.within.trace()
        growth = torch.where(total > 0, spread.trace() / total, 0.0)
        change = Change(moved, spread, growth * reference.class_variance, dw)
        found = metric_tangents(metrics, statistics, weight, change)
        result.weight[name], result.means[name], result.within[name] = dw, moved, spread
        result.metrics[name] = {metric: tangent.item() for metric, tangent in found.items()}
    inside, off = frame.traces
    lost = [(gamma.value - 1).square() for gamma in (scalars.gamma_in, scalars.gamma_out)]
    shift = reference.priors @ (own - reference.means).square().sum(1)
    result.objective.update(
        lambda_w=(weight.square().sum() / (2 * reference.num_classes)).item(),
        lambda_h=(statistics.second_moment.trace() / 2).item(),
        beta=((shift + lost[0] * inside + lost[1] * off) / 2).item(),
    )
    return result


def _values(jets: Iterable[Jet]) -> list[Tensor]:
    return [jet.value for jet in jets]


def _slopes(jets: Iterable[Jet], i: int, parameter: float) -> list[Tensor]:
    """Derivatives in a parameter itself."""
    return [jet.slope[i] / parameter for jet in jets]

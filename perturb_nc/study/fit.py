"""The regularisation under which the model predicts observed class statistics best."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.study.misfit import Misfit, residual
from perturb_nc.study.models import Layer, Model, model_of, statistics_of
from perturb_nc.study.profile import profile_interval
from perturb_nc.summary import Summarised
from perturb_nc.theory.clock import Clock, Progress
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, nonnegative, positive


@dataclass(frozen=True, eq=False, repr=False)
class RegularizationFit(Summarised):
    """The result of `fit_regularization`.

    Attributes:
        lambda_w, lambda_h, beta: fitted or as given.
        model: the layer H0 under the loss, with or without bias.
        observed: what was fitted.
        covariance: parameter → parameter → covariance of their logs, for the parameters fitted.
            Infinite variance: not determined, or at an end of its range.
        at_bound: parameter → "low" or "high", for those that ran to that end of their range.
        means_error: √(Σ_k π_k |μ_k - μ_k^obs|² / Σ_k π_k |μ_k^obs|²) at the fit.
        within_error: |Σ_W - Σ_W^obs| / |Σ_W^obs| at the fit.
        residual: root mean square of these two; 0 is a perfect fit.
        unchanged: the residual of H0 itself, which β → ∞ predicts.
        solution: the optimum at these parameters, with its status and certificate.
        steps: least-squares steps taken from the best start.
        status: how the fit ended.
    """

    lambda_w: float
    lambda_h: float
    beta: float
    model: Model
    observed: ClassStatistics
    covariance: dict[str, dict[str, float]]
    at_bound: dict[str, str]
    means_error: float
    within_error: float
    residual: float
    unchanged: float
    solution: Solution
    steps: int
    status: Status

    def _summary(self) -> dict[str, object]:
        given = super()._summary()
        left_out = ("model", "observed", "covariance", "solution")
        kept = {name: value for name, value in given.items() if name not in left_out}
        certificate = str(self.solution.certificate)
        return kept | {"standard_error": self.standard_error, "certificate": certificate}

    @property
    def standard_error(self) -> dict[str, float]:
        """Standard error of the log of every parameter fitted; 0.1 is known within 10 %.

        A local statement, to trust where it is small (below .3, say); `interval` holds beyond.
        """
        return {name: math.sqrt(row[name]) for name, row in self.covariance.items()}

    def interval(self, name: str, *, level: float = 0.95) -> tuple[float, float]:
        """The values of a fitted parameter that the statistics do not exclude.

        As wide to either side as the misfit says, the other parameters fitted anew: an end is 0 or
        infinite where nothing is excluded up to the end of the range. It costs a few fits.

        Args:
            name: "lambda_w", "lambda_h" or "beta", one that was fitted.
            level: confidence, if the misfit is sampling error.

        Raises:
            ValueError: a parameter that was not fitted, or a level out of range.
        """
        if name not in self.covariance:
            raise ValueError(f"name must be a fitted parameter, {[*self.covariance]}, got {name!r}")
        if not 0 < level < 1:
            raise ValueError(f"level must be between 0 and 1, got {level}")
        values = {other: getattr(self, other) for other in HYPERPARAMETERS}
        fixed = {other: v for other, v in values.items() if other not in self.covariance}
        misfit = Misfit(self.model, self.observed, fixed)
        return profile_interval(misfit, np.log([values[n] for n in misfit.free]), name, level)


def fit_regularization(
    reference: Layer,
    observed: Layer,
    *,
    loss: str = "squared",
    lambda_w: float | None = None,
    lambda_h: float | None = None,
    beta: float | None = None,
    bias: bool = False,
    max_steps: int = 100,
    time_limit: float = math.inf,
    progress: Progress | None = None,
) -> RegularizationFit:
    """The (λ_W, λ_H, β) at which the optimum of (1) has the observed class statistics, or nearly.

    With μ_k, Σ_W of the optimum for H0 = reference, and those observed, minimises over the logs of
    the parameters that are not given

        ½ Σ_k π_k |μ_k - μ_k^obs|² / Σ_k π_k |μ_k^obs|²  +  ½ |Σ_W - Σ_W^obs|² / |Σ_W^obs|²,

    whose root is `residual`, by scipy's trust-region least squares with the exact Jacobian (the
    response of the optimum), from the best settings of a coarse grid. Both features are compared
    as they are: in one basis, as along a residual network, and uncentred.

    Standard errors: the misfit is taken for noise of the shape that sampling would give the
    observed statistics (cov μ_k ∝ Σ_W/π_k, cov Σ_W that of Gaussian features), its size from the
    residual: cov = φ (JᵀJ)⁻¹JᵀCJ(JᵀJ)⁻¹, φ = |r|²/tr((I - J(JᵀJ)⁻¹Jᵀ)C). If a correct model is
    fitted to a sample that is the sampling error (N cancels); 0 for a perfect fit. If the misfit is
    that of a wrong model it says only how sharply the misfit rises. Where a standard error is large
    (or infinite, a parameter being at an end of its range) take `RegularizationFit.interval`.

    Args:
        reference: class statistics of H0; its samples (`LayerSamples`) for cross-entropy.
        observed: of the features to explain; same classes in the same proportions, same d. Of
            samples the class statistics are taken.
        loss: "squared", or "cross-entropy".
        lambda_w, lambda_h, beta: values to hold fixed (λ_W and β > 0, λ_H >= 0); None to fit.
        bias: whether the last layer of the model has a bias.
        max_steps: least-squares steps at most.
        time_limit: seconds after which the best so far is returned, with TIME_LIMIT: its optimum
            as far as it came, standard errors NaN.
        progress: called as progress(evaluations, size of the residual) after every one.

    Raises:
        ValueError: statistics of different classes or dimension, or without class means or within-
            class variability to compare with; parameters out of range, or none to fit.

    Example:
        >>> labels = torch.arange(60) % 3
        >>> noise = torch.arange(300.0).square().sin().view(60, 5)
        >>> features = torch.eye(3, 5)[labels] + 0.2 * noise
        >>> statistics = pnc.ClassStatistics.from_features(features, labels)
        >>> problem = pnc.NearCollapseProblem(statistics, lambda_w=0.05, lambda_h=0.05, beta=0.5)
        >>> observed = pnc.minimize(problem).statistics
        >>> found = pnc.fit_regularization(statistics, observed, lambda_w=0.05, lambda_h=0.05)
        >>> round(found.beta, 4), found.status.name
        (0.5, 'CONVERGED')

    See Also:
        compare_layers: fits of every layer to the one before, beside rivals.

    Source: docs §4.1, 4.3; the standard error is the usual sandwich for least squares.
    """
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    model = model_of(reference, loss, bias=bias, name="reference")
    at_least(max_steps, 1, "max_steps")
    clock = Clock.of(time_limit, progress)
    return fit_model(model, statistics_of(observed), given, max_steps=max_steps, clock=clock)


def fit_model(
    model: Model,
    observed: ClassStatistics,
    given: Mapping[str, float | None] | None = None,
    *,
    max_steps: int = 100,
    clock: Clock | None = None,
) -> RegularizationFit:
    """`fit_regularization` for a model of one's own; given: the parameters that are not None."""
    fixed = _checked(model.statistics, observed, dict.fromkeys(HYPERPARAMETERS) | dict(given or {}))
    clock = clock or Clock()
    problem = Misfit(model, observed, fixed, clock)
    rough = [problem.descend(start, 1e-2, max_steps) for start in problem.starts()]
    best = problem.descend(min(rough, key=lambda end: end.cost).x, 1e-10, max_steps)
    solution = problem.solved(best.x)
    residuals = problem.residuals(best.x)
    between = residuals[: observed.means.numel()]
    late = best.status <= 0 and clock.expired()
    unknown = np.full((len(problem.free), len(problem.free)), math.nan)
    covariance = unknown if late else problem.covariance(best.x, residuals)
    names, at_bound = problem.free, problem.at_end(best.x)
    flat = [n for n, v in zip(names, covariance.diagonal(), strict=True) if not math.isfinite(v)]
    status = Status.CONVERGED
    if best.status <= 0:
        status = Status.TIME_LIMIT if late else Status.MAX_STEPS
    elif set(flat) - set(at_bound):
        status = Status.NOT_DETERMINED
    elif at_bound:
        status = Status.AT_BOUND
    rows = [dict(zip(names, row, strict=True)) for row in covariance.tolist()]
    return RegularizationFit(
        **problem.values(best.x),
        model=model,
        observed=observed,
        covariance=dict(zip(names, rows, strict=True)),
        at_bound=at_bound,
        means_error=math.sqrt(2) * float(np.linalg.norm(between)),
        within_error=math.sqrt(2) * float(np.linalg.norm(residuals[len(between) :])),
        residual=float(np.linalg.norm(residuals)),
        unchanged=residual(model.statistics, observed),
        solution=solution,
        steps=best.nfev,
        status=status,
    )


def _checked(
    reference: ClassStatistics, observed: ClassStatistics, given: dict[str, float | None]
) -> dict[str, float]:
    """The parameters that are fixed; ValueError when the arguments do not fit together."""
    check_full(observed, "observed")
    if observed.means.shape != reference.means.shape:
        raise ValueError(
            f"observed must have the shape (K, d) of reference, {tuple(reference.means.shape)}, "
            f"got {tuple(observed.means.shape)}; fit layers of one width and one set of classes"
        )
    if not torch.allclose(observed.priors, reference.priors, rtol=1e-9, atol=0.0):
        raise ValueError(
            "observed must have the class proportions of reference: counts are "
            f"{observed.counts.tolist()[:10]} for {reference.counts.tolist()[:10]}; "
            "measure both on the same samples"
        )
    if not reference.means.any() or not observed.means.any():
        raise ValueError("class means must not all be 0: nothing there depends on λ_W")
    if reference.within.any() and not observed.within.any():
        raise ValueError(
            "observed has no within-class variability, which the model has only at β = 0 when "
            "reference has some; measure it in float32 or better, before it vanishes"
        )
    fixed = {
        name: nonnegative(value, name) if name == "lambda_h" else positive(value, name)
        for name, value in given.items()
        if value is not None
    }
    if len(fixed) == len(given):
        raise ValueError("nothing to fit: leave lambda_w, lambda_h or beta out")
    return fixed

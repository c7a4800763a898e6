"""The regularisation under which the model predicts observed class statistics best."""

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.statistics import ClassStatistics, check_full
from perturb_nc.theory.batch import minimize_batch
from perturb_nc.theory.minimize import Solution, minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.reduced import ReducedPoint
from perturb_nc.theory.response import HYPERPARAMETERS, weight_response
from perturb_nc.theory.status import Status
from perturb_nc.validation import at_least, nonnegative, positive

Vector = NDArray[np.float64]

# In units of s = |H0|²/N: λ_W/s, λ_H s and β s do not depend on the scale of the features.
_STARTS = {
    "lambda_w": (1e-3, 3e-2, 1.0),
    "lambda_h": (1e-4, 1e-2, 1.0),
    "beta": (0.1, 1.0, 10.0, 100.0),
}
_BOUNDS = {"lambda_w": (1e-5, 1e2), "lambda_h": (1e-5, 1e2), "beta": (1e-2, 1e4)}
_DESCENTS = 2  # from the best points of the grid, roughly; then from the best end
_NEWTON_STEPS = 50  # where the optimum takes more, the descent turns back
_FLAT = 1e-7  # relative change of the statistics for a factor e that counts as none


@dataclass(frozen=True, eq=False)
class RegularizationFit:
    """The result of `fit_regularization`.

    Attributes:
        lambda_w, lambda_h, beta: fitted or as given.
        covariance: parameter → parameter → covariance of their logs, for the parameters fitted.
            Infinite variance: not determined.
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
    covariance: dict[str, dict[str, float]]
    means_error: float
    within_error: float
    residual: float
    unchanged: float
    solution: Solution
    steps: int
    status: Status

    @property
    def standard_error(self) -> dict[str, float]:
        """Standard error of the log of every parameter fitted; 0.1 is known within 10 %."""
        return {name: math.sqrt(row[name]) for name, row in self.covariance.items()}


def fit_regularization(
    reference: ClassStatistics,
    observed: ClassStatistics,
    *,
    lambda_w: float | None = None,
    lambda_h: float | None = None,
    beta: float | None = None,
    bias: bool = False,
    max_steps: int = 100,
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
    that of a wrong model it says only how sharply the misfit rises.

    Args:
        reference: class statistics of H0.
        observed: of the features to explain; same classes in the same proportions, same d.
        lambda_w, lambda_h, beta: values to hold fixed (λ_W and β > 0, λ_H >= 0); None to fit.
        bias: whether the last layer of the model has a bias.
        max_steps: least-squares steps at most.

    Raises:
        ValueError: statistics of different classes or dimension, or without class means or within-
            class variability to compare with; parameters out of range, or none to fit.

    Source: DESIGN §4.1, 4.3; the standard error is the usual sandwich for least squares.
    """
    given = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    fixed = _checked(reference, observed, given)
    at_least(max_steps, 1, "max_steps")
    problem = _Misfit(reference, observed, fixed, bias)
    rough = [problem.descend(start, 1e-2, max_steps) for start in problem.starts()]
    best = problem.descend(min(rough, key=lambda end: end.cost).x, 1e-10, max_steps)
    solution = problem.solved(best.x)
    residuals = problem.residuals(best.x)
    between = residuals[: reference.means.numel()]
    covariance = problem.covariance(best.x, residuals)
    status = Status.CONVERGED if best.status > 0 else Status.MAX_STEPS
    if not np.isfinite(covariance.diagonal()).all():
        status = Status.NOT_DETERMINED
    names = problem.free
    rows = [dict(zip(names, row, strict=True)) for row in covariance.tolist()]
    return RegularizationFit(
        **problem.values(best.x),
        covariance=dict(zip(names, rows, strict=True)),
        means_error=math.sqrt(2) * float(np.linalg.norm(between)),
        within_error=math.sqrt(2) * float(np.linalg.norm(residuals[len(between) :])),
        residual=float(np.linalg.norm(residuals)),
        unchanged=misfit(reference, observed),
        solution=solution,
        steps=best.nfev,
        status=status,
    )


def misfit(predicted: ClassStatistics, observed: ClassStatistics) -> float:
    """The residual of `fit_regularization` for any prediction: relative errors of means and Σ_W."""
    of_means, of_within = _scales(observed)
    means, within = predicted.means - observed.means, predicted.within - observed.within
    return math.hypot((of_means * means).norm().item(), (of_within * within).norm().item())


def _scales(observed: ClassStatistics) -> tuple[Float64[Tensor, "K 1"], Float64[Tensor, ""]]:
    """What errors of the means and of Σ_W are multiplied by."""
    means = (observed.priors @ observed.means.square().sum(1)).sqrt()
    within = observed.within.norm()
    # Both collapsed: nothing to compare.
    of_within = math.sqrt(0.5) / within if within > 0 else within
    return (observed.priors / 2).sqrt()[:, None] / means, of_within


class _Misfit:
    """Relative errors of the prediction as a function of the logs of the free parameters."""

    def __init__(
        self,
        reference: ClassStatistics,
        observed: ClassStatistics,
        fixed: dict[str, float],
        bias: bool,
    ) -> None:
        self._reference, self._observed, self._fixed = reference, observed, fixed
        self._bias = bias
        self.free = [name for name in HYPERPARAMETERS if name not in fixed]
        size = reference.second_moment.trace().item()
        self._units = {"lambda_w": size, "lambda_h": 1 / size, "beta": 1 / size}
        limits = [[self._units[n] * b for b in _BOUNDS[n]] for n in self.free]
        self.bounds: tuple[Vector, Vector] = tuple(np.log(limits).T)
        self._means_scale, self._within_scale = _scales(observed)
        self._last: tuple[Vector, Solution] | None = None

    def values(self, x: Vector) -> dict[str, float]:
        """All three parameters by name."""
        return {**self._fixed, **dict(zip(self.free, np.exp(x).tolist(), strict=True))}

    def starts(self) -> list[Vector]:
        """The best points of the grid, solved in one batch."""
        axes = [
            [self._fixed[n]] if n in self._fixed else [self._units[n] * v for v in _STARTS[n]]
            for n in HYPERPARAMETERS
        ]
        settings = list(product(*axes))
        columns = dict(zip(HYPERPARAMETERS, zip(*settings, strict=True), strict=True))
        found = minimize_batch(
            self._reference, **columns, bias=self._bias, tol=1e-6, max_steps=_NEWTON_STEPS
        )
        sizes: list[float] = []
        for i, setting in enumerate(settings):
            own = dict(zip(HYPERPARAMETERS, setting, strict=True))
            point = self._problem(own).at(found.weight(i))
            size = self._errors(point.means, point.within).norm().item()
            sizes.append(math.inf if found.status[i] is Status.MAX_STEPS else size)
        free = [HYPERPARAMETERS.index(name) for name in self.free]
        order = np.argsort(sizes, kind="stable")[:_DESCENTS]
        return [np.log(np.array(settings[i])[free]) for i in order]

    def descend(self, start: Vector, tolerance: float, max_steps: int) -> Any:
        """scipy's result, from one start."""
        return scipy.optimize.least_squares(
            self.residuals,
            start,
            self.jacobian,
            bounds=self.bounds,
            xtol=tolerance,
            ftol=tolerance,
            gtol=1e-15,  # a larger one would end the fit of a weak parameter early
            max_nfev=max_steps,
        )

    def solved(self, x: Vector) -> Solution:
        """The optimum there; the last one is kept."""
        if self._last is None or not np.array_equal(self._last[0], x):
            problem = self._problem(self.values(x))
            # From scratch, so that the prediction is a function of the parameters alone.
            self._last = (x.copy(), minimize(problem, max_steps=_NEWTON_STEPS))
        return self._last[1]

    def residuals(self, x: Vector) -> Vector:
        """Relative errors, whose norm is the residual."""
        found = self.solved(x)
        errors = self._errors(found.statistics.means, found.statistics.within)
        if found.status is Status.MAX_STEPS:
            errors = torch.full_like(errors, torch.inf)
        return errors.cpu().numpy()

    def jacobian(self, x: Vector) -> Vector:
        """Their derivatives in the logs of the free parameters."""
        rows = [self.scaled(m, s) for m, s in zip(*self._slopes(x), strict=True)]
        return torch.stack(rows, dim=1).cpu().numpy()

    def scaled(
        self, means: Float64[Tensor, "K d"], within: Float64[Tensor, "d d"]
    ) -> Float64[Tensor, "n"]:
        """Differences of means and Σ_W relative to the observed ones."""
        return torch.cat(
            [(self._means_scale * means).flatten(), (self._within_scale * within).flatten()]
        )

    def covariance(self, x: Vector, residuals: Vector) -> Vector:
        """The sandwich of `fit_regularization`; infinite variances where nothing is determined."""
        jacobian = self.jacobian(x)
        low, high = self.bounds
        jacobian[:, np.minimum(x - low, high - x) < 1e-2] = 0.0
        _, sizes, directions = np.linalg.svd(jacobian, full_matrices=False)
        seen = sizes > _FLAT
        bread = (directions[seen].T / sizes[seen] ** 2) @ directions[seen]
        filling, total = self._noise(x)
        leverage = np.trace(bread @ filling)
        result = residuals @ residuals / (total - leverage) * (bread @ filling @ bread)
        lost = (np.square(directions[~seen]).sum(0)) > 1e-6
        result[lost, :] = result[:, lost] = np.nan
        result[lost, lost] = np.inf
        return result

    def _noise(self, x: Vector) -> tuple[Vector, float]:
        """JᵀCJ and tr C of the sampling covariance C of the residuals, times N."""
        covariance = self._observed.within
        if not covariance.any():  # nothing to tell the shape of noise
            covariance = torch.eye(len(covariance)).to(covariance)
        means, within = self._slopes(x)
        between = self._means_scale * means
        turned = self._within_scale * (within @ covariance)
        # Variances of the residuals in units of those of μ_k and Σ_W, times N.
        of_means = self._means_scale.square() / self._observed.priors[:, None]
        of_within = self._within_scale**2
        filling = torch.einsum("akd,bkd->ab", between, of_means * (between @ covariance))
        filling = filling + 2 * of_within * torch.einsum("aij,bji->ab", turned, turned)
        trace = covariance.trace()
        total = of_means.sum() * trace + of_within * (covariance.square().sum() + trace**2)
        return filling.cpu().numpy(), total.item()

    def _slopes(self, x: Vector) -> tuple[Float64[Tensor, "p K d"], Float64[Tensor, "p d d"]]:
        """Derivatives of means and Σ_W in the logs of the free parameters."""
        weight, values = self.solved(x).weight, self.values(x)
        settings = weight.new_tensor([values[name] for name in HYPERPARAMETERS])
        change = torch.diag(settings)[[HYPERPARAMETERS.index(name) for name in self.free]]
        point = ReducedPoint(
            self._reference,
            weight.repeat(len(change), 1, 1),
            settings.repeat(len(change), 1),
            self._bias,
        )
        slope, _ = weight_response(point, change)

        def moved(w: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
            at = replace(point, weight=w, hyperparameters=h)
            return at.means, at.within

        inputs = (point.weight, point.hyperparameters)
        return torch.func.jvp(moved, inputs, (slope, change))[1]

    def _errors(
        self, means: Float64[Tensor, "K d"], within: Float64[Tensor, "d d"]
    ) -> Float64[Tensor, "n"]:
        return self.scaled(means - self._observed.means, within - self._observed.within)

    def _problem(self, values: dict[str, float]) -> NearCollapseProblem:
        return NearCollapseProblem(self._reference, **values, bias=self._bias)


def _checked(
    reference: ClassStatistics, observed: ClassStatistics, given: dict[str, float | None]
) -> dict[str, float]:
    """The parameters that are fixed; ValueError when the arguments do not fit together."""
    check_full(reference, "reference")
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

"""How far the optimum of (1) is from observed statistics, in the logs of its parameters."""

import math
from itertools import product
from typing import Any

import numpy as np
import scipy  # its parts load, slowly, when they are first used
import torch
from jaxtyping import Float64
from numpy.typing import NDArray
from torch import Tensor

from perturb_nc.statistics import ClassStatistics
from perturb_nc.study.models import Model
from perturb_nc.theory.clock import Clock, OutOfTimeError
from perturb_nc.theory.minimize import minimize
from perturb_nc.theory.regularization import HYPERPARAMETERS
from perturb_nc.theory.solution import Solution
from perturb_nc.theory.status import Status

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
_PROFILE_STEPS = 20  # beside a parameter that is held
_FLAT = 1e-7  # relative change of the statistics for a factor e that counts as none


def residual(predicted: ClassStatistics, observed: ClassStatistics) -> float:
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


class Misfit:
    """Relative errors of the prediction as a function of the logs of the free parameters."""

    def __init__(
        self,
        model: Model,
        observed: ClassStatistics,
        fixed: dict[str, float],
        clock: Clock | None = None,
    ) -> None:
        self._clock, self._evaluations = clock or Clock(), 0
        self._best: tuple[float, Vector] | None = None  # of the descent under way
        self._model, self._observed, self._fixed = model, observed, fixed
        self.free = [name for name in HYPERPARAMETERS if name not in fixed]
        size = model.statistics.second_moment.trace().item()
        self._units = {"lambda_w": size, "lambda_h": 1 / size, "beta": 1 / size}
        limits = [[self._units[n] * b for b in _BOUNDS[n]] for n in self.free]
        self.bounds: tuple[Vector, Vector] = tuple(np.log(limits).T)
        self._means_scale, self._within_scale = _scales(observed)
        self._last: tuple[Vector, Solution] | None = None

    def values(self, x: Vector) -> dict[str, float]:
        """All three parameters by name."""
        return {**self._fixed, **dict(zip(self.free, np.exp(x).tolist(), strict=True))}

    def starts(self) -> list[Vector]:
        """The best points of the grid."""
        axes = [
            [self._fixed[n]] if n in self._fixed else [self._units[n] * v for v in _STARTS[n]]
            for n in HYPERPARAMETERS
        ]
        grid = list(product(*axes))
        settings = [dict(zip(HYPERPARAMETERS, values, strict=True)) for values in grid]
        sizes: list[float] = []
        for status, means, within in self._model.rough(
            settings, tol=1e-6, max_steps=_NEWTON_STEPS, clock=self._clock
        ):
            size = self._errors(means, within).norm().item()
            sizes.append(math.inf if status is Status.MAX_STEPS else size)
        free = [HYPERPARAMETERS.index(name) for name in self.free]
        order = np.argsort(sizes, kind="stable")[:_DESCENTS]
        return [np.log(np.array(grid[i])[free]) for i in order]

    def descend(self, start: Vector, tolerance: float, max_steps: int) -> Any:
        """scipy's result, from one start; the best so far, of status 0, where time runs out."""
        self._best = None
        try:
            return scipy.optimize.least_squares(
                self._timed,
                start,
                self.jacobian,
                bounds=self.bounds,
                xtol=tolerance,
                ftol=tolerance,
                gtol=1e-15,  # a larger one would end the fit of a weak parameter early
                max_nfev=max_steps,
            )
        except OutOfTimeError:
            cost, x = self._best or (math.inf, start)
            return scipy.optimize.OptimizeResult(x=x, cost=cost, status=0, nfev=self._evaluations)

    def _timed(self, x: Vector) -> Vector:
        if self._best is not None and self._clock.expired():
            raise OutOfTimeError
        found = self.residuals(x)
        cost = 0.5 * float(found @ found)
        if self._best is None or cost < self._best[0]:
            self._best = cost, x.copy()
        self._evaluations += 1
        self._clock.report(self._evaluations, math.sqrt(cost))
        return found

    def solved(self, x: Vector) -> Solution:
        """The optimum there; the last one is kept."""
        if self._last is None or not np.array_equal(self._last[0], x):
            problem = self._model.problem(**self.values(x))
            # From scratch, so that the prediction is a function of the parameters alone.
            left = self._clock.left()
            self._last = (x.copy(), minimize(problem, max_steps=_NEWTON_STEPS, time_limit=left))
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

    def at_end(self, x: Vector) -> dict[str, str]:
        """Parameter → "low" or "high", for those at that end of their range."""
        low, high = (np.abs(x - limit) < 1e-2 for limit in self.bounds)
        ends = zip(self.free, low.tolist(), high.tolist(), strict=True)
        return {name: "low" if down else "high" for name, down, up in ends if down or up}

    def covariance(self, x: Vector, residuals: Vector) -> Vector:
        """The sandwich of `fit_regularization`; infinite variances where nothing is determined."""
        jacobian = self.jacobian(x)
        jacobian[:, [name in self.at_end(x) for name in self.free]] = 0.0
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

    def rise(self, x: Vector, residuals: Vector) -> Vector:
        """cov_ii / ((JᵀJ)⁻¹)_ii of every free parameter; NaN for one that changes nothing.

        A ratio, so that a parameter near the end of its range, where its log changes little, has
        one as well.
        """
        jacobian, (filling, total) = self.jacobian(x), self._noise(x)
        sizes = np.linalg.norm(jacobian, axis=0)
        units = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > 1e-12)
        bread = np.linalg.pinv((jacobian * units).T @ (jacobian * units), 1e-12, hermitian=True)
        filling = units * filling * units[:, None]
        size = residuals @ residuals / (total - np.trace(bread @ filling))
        with np.errstate(invalid="ignore"):  # 0/0 of a parameter without effect
            return size * (bread @ filling @ bread).diagonal() / bread.diagonal()

    def held(self, name: str, at: float, near: Vector) -> tuple[Vector, float]:
        """The best point with one parameter held at exp(at), from one near it, and its |r|²."""
        index = self.free.index(name)
        rest = np.delete(near, index)
        fixed = {**self._fixed, name: math.exp(at)}
        if len(fixed) == len(HYPERPARAMETERS):
            residuals = self.residuals(np.array([at]))
            return np.array([at]), float(residuals @ residuals)
        other = Misfit(self._model, self._observed, fixed)
        found = other.descend(np.clip(rest, *other.bounds), 1e-4, _PROFILE_STEPS)
        return np.insert(found.x, index, at), 2 * float(found.cost)

    def _noise(self, x: Vector) -> tuple[Vector, float]:
        """JᵀCJ and tr C of the sampling covariance C of the residuals, times N."""
        covariance = self._observed.within
        if not covariance.any():  # nothing to tell the shape of noise
            covariance = torch.diag(covariance.new_ones(len(covariance)))
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
        values = self.values(x)
        sizes = torch.tensor([values[name] for name in self.free], dtype=torch.float64)
        rows = [HYPERPARAMETERS.index(name) for name in self.free]
        means, within = self._model.slopes(self.solved(x))
        sizes = sizes.to(means)[:, None, None]
        return sizes * means[rows], sizes * within[rows]

    def _errors(
        self, means: Float64[Tensor, "K d"], within: Float64[Tensor, "d d"]
    ) -> Float64[Tensor, "n"]:
        return self.scaled(means - self._observed.means, within - self._observed.within)

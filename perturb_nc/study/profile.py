"""Intervals for fitted parameters that follow the misfit, where a standard error is too local."""

import math
from collections.abc import Callable
from functools import cache

import scipy  # its parts load, slowly, when they are first used

from perturb_nc.study.misfit import Misfit, Vector

_STEP = 1.0  # at first: a factor e, or less where the standard error is small
_EXACT = 0.01  # of that step
_PERFECT = 1e-12  # a squared residual below this is rounding, and its rise a parabola


def profile_interval(misfit: Misfit, x: Vector, name: str, level: float) -> tuple[float, float]:
    """The values of a parameter that the observed statistics do not exclude.

    With S(θ) the least ½|r|² over the other parameters, those with

        2 (S(θ) - S(θ̂)) <= z² q,    q = cov_θθ / ((JᵀJ)⁻¹)_θθ,

    z the normal quantile of (1 + level)/2 and cov as for the standard error: q makes of the rise of
    a least-squares misfit a χ²_1 variable, in whatever units θ is written. Where S is a parabola in
    log θ that is θ̂ exp(±z s.e.). An end is 0 or infinite where nothing is excluded up to the end of
    the parameter's range.

    Source: the profile likelihood, with the correction of Rotnitzky and Jewell 1990 for a variance
    that is not the model's.
    """
    index = misfit.free.index(name)
    residuals = misfit.residuals(x)
    ratio = misfit.rise(x, residuals)[index]
    if math.isnan(ratio):  # nothing depends on it
        return 0.0, math.inf
    lowest, wanted = float(residuals @ residuals), float(scipy.special.ndtri(0.5 + 0.5 * level))
    start = float(x[index])
    spread = wanted * math.sqrt(misfit.covariance(x, residuals)[index, index])
    if lowest < _PERFECT and math.isfinite(spread):
        return math.exp(start - spread), math.exp(start + spread)
    known = {start: x}

    @cache
    def excess(at: float) -> float:
        """How far beyond the threshold the misfit is there, as a distance."""
        if at in known:
            return -wanted
        known[at], squares = misfit.held(name, at, known[min(known, key=lambda t: abs(t - at))])
        return math.sqrt(max(0.0, squares - lowest) / ratio) - wanted

    step = min(_STEP, spread)
    low, high = (float(limit[index]) for limit in misfit.bounds)
    below, above = _crossing(excess, start, -step, low), _crossing(excess, start, step, high)
    return (
        0.0 if below is None else math.exp(below),
        math.inf if above is None else math.exp(above),
    )


def _crossing(
    excess: Callable[[float], float], start: float, step: float, limit: float
) -> float | None:
    """Where excess turns positive, going out from start by doubled steps; None before limit."""
    tolerance = _EXACT * abs(step)
    inside, outside = start, start
    while excess(outside) < 0:
        if outside == limit:
            return None
        inside = outside
        outside = max(limit, inside + step) if step < 0 else min(limit, inside + step)
        step *= 2
    found = scipy.optimize.brentq(excess, inside, outside, xtol=tolerance, rtol=1e-4)
    return float(found)

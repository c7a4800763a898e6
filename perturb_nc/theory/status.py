"""Every way in which a computation can end, and what to do about it."""

from enum import Enum


class Status(Enum):
    """How a computation ended; every result carries one, and the value says what to do.

    `is_done` is the one rule for "finished": the result is what was asked for.
    """

    CONVERGED = "converged"
    FINISHED = "reached the last time"
    EVENT = "stopped where `until` was reached"
    MAX_STEPS = "stopped at max_steps; raise max_steps, or start nearer"
    TIME_LIMIT = "stopped at time_limit; raise it, or go on from this result"
    STALLED = (
        "rounding stops the objective from falling further; accept the gradient norm reached, "
        "or rescale the features so that |H0|²/N is near 1"
    )
    STEP_TOO_SMALL = "the step size underflowed; rescale the features, or loosen rtol"
    DECAYED = (
        "the features have decayed to nothing (below 1e-139 of H0) at the last time kept; ask for "
        "earlier times, or lower lambda_h: λ_W λ_H < 1 keeps balanced class means"
    )
    DIVERGED = "the objective rose a thousandfold or is not finite; lower learning_rate"
    NOT_DETERMINED = (
        "the statistics do not determine the parameters with infinite standard error: they change "
        "nothing, or another parameter makes up for them; fix one of them"
    )
    AT_BOUND = (
        "the fit is best at the end of a parameter's range (see at_bound): the statistics set no "
        "limit there; hold it fixed (λ_H at 0 at its lower end), or take it that the model does "
        "not fit"
    )
    NOT_PLACED = (
        "the path comes by none of the layers (of those to be fitted, whatever λ_W), and predicts "
        "nothing; place layers by another metric (nc1), or start from a later layer"
    )

    NOT_SMALL = (
        "the features are too far from collapse for this expansion: its next order changes weight, "
        "means or within-class covariance by more than a tenth; use minimize"
    )
    NOT_CERTIFIED = (
        "the spectral ratio r is above 1, so that another optimum may be better than the one near "
        "the collapsed frame; use minimize"
    )

    @property
    def is_done(self) -> bool:
        """Whether the computation ended as it was meant to."""
        return self in (Status.CONVERGED, Status.FINISHED, Status.EVENT)

"""Gradient descent for `DeepUFM`, on all runs at once."""

from perturb_nc.theory.deep.batch import Batch, DeepTraining, OnCheck
from perturb_nc.theory.deep.ufm import DeepUFM
from perturb_nc.validation import at_least, positive


def gradient_descent(
    model: DeepUFM,
    *,
    learning_rate: float,
    max_steps: int,
    tol: float = 1e-10,
    check_every: int = 100,
    on_check: OnCheck | None = None,
) -> DeepTraining:
    """Full-batch gradient descent with a fixed step, as in the papers, on every run of `model`.

    Runs that end - |∇f| <= tol, or f a thousand times its start - are retired and cost no more.

    Args:
        check_every: steps between checks (and calls of on_check).
        on_check: called with the number of steps and the model, up to date; to record or to stop
            (raise: the model keeps what was reached).

    Raises:
        ValueError: arguments out of range.
    """
    positive(learning_rate, "learning_rate")
    runs = Batch(model, tol, max_steps)
    every = at_least(check_every, 1, "check_every")
    for step in [*range(0, max_steps, every), max_steps]:
        runs.retire(step, *runs.problem.value_and_gradient(runs.points))
        if on_check is not None:
            on_check(step, model)
        if not len(runs.left):
            break
        runs.problem.descend(runs.points, learning_rate, min(every, max_steps - step))
    return runs.result()

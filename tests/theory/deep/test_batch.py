import math

import pytest
import torch
from deep_models import two_classes

import perturb_nc as pnc
from perturb_nc.theory.status import Status


@pytest.mark.filterwarnings("ignore:overflow")
def test_every_run_has_a_status():
    model = two_classes([2, 2], [0, 1], lambdas=torch.tensor([[5e-3], [500.0]]))
    training = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=3000)
    assert training.status == (Status.MAX_STEPS, Status.DIVERGED)
    assert training.steps[1] < training.steps[0] == 3000
    assert math.isfinite(training.objective[0])


def test_checks_see_the_model_and_may_stop():
    model, seen = two_classes([2], [0]), []

    def on_check(step, current):
        seen.append((step, current.objective().item()))
        if step == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pnc.deep.gradient_descent(
            model, learning_rate=0.5, max_steps=100, check_every=10, on_check=on_check
        )
    assert [step for step, _ in seen] == [0, 10, 20]
    assert seen[2][1] == model.objective().item() < seen[0][1]
    rest = pnc.deep.gradient_descent(model, learning_rate=0.5, max_steps=80)
    again = two_classes([2], [0])
    whole = pnc.deep.gradient_descent(again, learning_rate=0.5, max_steps=100)
    assert rest.objective.equal(whole.objective)

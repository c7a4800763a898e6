import dataclasses

import numpy as np
import pytest
import torch
from flows import cases, flow, problem, propagators

from perturb_nc.theory.flow import exponential
from perturb_nc.theory.flow.integrators import Exponential


def slopes(dense, order):
    judge = flow(dense, times=[1.0], method="DOP853", rtol=1e-13, atol=1e-14)
    errors = []
    for steps in {2: (8, 16, 32), 4: (8, 16)}[order]:
        path = flow(dense, times=[1.0], method=Exponential(order=order, step=1 / steps))
        assert path.cost.steps == steps
        gap = (path.means - judge.means).norm() + (propagators(path) - propagators(judge)).norm()
        errors.append(gap.item())
    return -np.diff(np.log2(errors))


@cases
@pytest.mark.parametrize("order", [2, 4])
def test_observed_order(case, order):
    found = slopes(problem(**case), order)
    assert (found > order - 0.35).all()
    assert (found < order + 0.8).all()


def test_a_one_percent_mutation_breaks_the_order(monkeypatch):
    exact = exponential.METHODS[4]
    final = dataclasses.replace(exact.final, of=lambda k: 1.01 * exact.final.of(k))
    monkeypatch.setitem(exponential.METHODS, 4, dataclasses.replace(exact, final=final))
    assert (slopes(problem(), 4) < 1).all()


@pytest.mark.parametrize("order", [2, 4])
@pytest.mark.parametrize("step", [0.1, 10.0, 1e4, 1e7])
@pytest.mark.parametrize("lambda_w", [1e-6, 0.05])
def test_structure_is_kept_at_any_step_size(order, step, lambda_w):
    dense = problem(seed=1, lambda_h=1e-3 / step, lambda_w=lambda_w)
    path = flow(dense, times=[step, 2 * step, 3 * step], method=Exponential(order=order, step=step))
    assert path.cost.steps == 3
    previous = path.reference.within.trace()
    for i, time in enumerate(path.times):
        within = path.statistics(i).within
        assert torch.linalg.eigvalsh(within).min() >= -1e-13 * within.trace()
        scaled = torch.exp(2 * path.lambda_h * time) * within.trace()
        assert scaled <= previous * (1 + 1e-9)
        previous = scaled

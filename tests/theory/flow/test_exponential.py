import dataclasses

import numpy as np
import pytest
import torch
from flows import cases, flow, problem, propagators

from perturb_nc.theory.flow import exponential
from perturb_nc.theory.flow.integrators import Exponential
from perturb_nc.theory.flow.state import FlowModel, FlowState


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


@pytest.mark.parametrize("lambda_h", [0.0, 0.3])
def test_a_weight_held_moves_features_by_the_exponential_of_its_generator(lambda_h):
    generator = torch.Generator().manual_seed(0)
    k, m, time = 3, 5, 0.7

    def random(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    own = [torch.full((1, 1, 1), v, dtype=torch.float64) for v in (0.1, lambda_h, 0.0)]
    priors = torch.full((k,), 1 / k, dtype=torch.float64)
    model = FlowModel(random(1, k, m), torch.eye(m).double()[None], 0 * priors[:1], priors, *own)
    state = FlowState(random(1, k, m), random(1, m, m), 0.9 * torch.ones(1, 1, 1).double())
    weight = random(1, k, m)
    weight[:, 2] = weight[:, 1]  # of rank 2
    found = exponential._held(model, state, weight, time)
    w = weight[0]
    rate = torch.zeros(m + k, m + k, dtype=torch.float64)
    rate[:m, :m] = -w.mT @ w - lambda_h * torch.eye(m).double()
    rate[:m, m:] = w.mT
    whole = torch.linalg.matrix_exp(time * rate)
    means = state.means[0] @ whole[:m, :m].mT + whole[:m, m:].mT
    torch.testing.assert_close(found.means[0], means, rtol=1e-12, atol=1e-13)
    turned = whole[:m, :m] @ state.propagator[0]
    torch.testing.assert_close(found.propagator[0], turned, rtol=1e-12, atol=1e-13)
    assert float(found.outer) == pytest.approx(0.9 * np.exp(-lambda_h * time))


def test_what_a_path_hands_out_are_ordinary_tensors():
    kept = []
    path = flow(problem(), times=[0.5, 1.0], on_step=lambda _, s: kept.append(s))
    handed = [path.means, path.basis, path.inner, path.outer, kept[0].means, kept[0].within]
    assert not any(x.is_inference() for x in handed)
    assert not kept[0].priors.is_inference()

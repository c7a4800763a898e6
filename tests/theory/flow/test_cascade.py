import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.flow import cascade as module
from perturb_nc.theory.status import Status

PARAMETERS = {"lambda_w": 0.05, "lambda_h": 0.02}


def test_a_cascade_is_a_chain_of_optima():
    statistics = random_problem(seed=1, dim=8).reduced.statistics
    solutions = pnc.cascade(statistics, **PARAMETERS, betas=[2.0, 0.5])
    first = pnc.minimize(pnc.NearCollapseProblem(statistics, **PARAMETERS, beta=2.0))
    second = pnc.minimize(pnc.NearCollapseProblem(first.statistics, **PARAMETERS, beta=0.5))
    torch.testing.assert_close(solutions[0].weight, first.weight, rtol=1e-7, atol=1e-8)
    assert solutions[1].objective == pytest.approx(second.objective, rel=1e-9)
    assert solutions[1].statistics.within.trace() < solutions[0].statistics.within.trace()


def test_a_cascade_says_how_it_ended_and_what_it_rests_on(monkeypatch):
    statistics = random_problem(seed=1, dim=8).reduced.statistics
    done = pnc.cascade(statistics, lambda_w=0.5, lambda_h=0.02, betas=[2.0, 4.0])
    assert done.status is Status.CONVERGED
    assert (len(done), done.complexity) == (2, 0.75)
    assert done.is_unique  # λ_W(λ_H + β) > 1
    loose = pnc.cascade(statistics, lambda_w=0.005, lambda_h=0.02, betas=[0.01])
    assert loose[0].certificate.spectral_ratio > 1
    assert not loose.is_unique
    minimize = module.minimize

    def stopped(problem, **options):
        return minimize(problem, **options, max_steps=1 if problem.beta == 4.0 else 100)

    monkeypatch.setattr(module, "minimize", stopped)
    short = pnc.cascade(statistics, **PARAMETERS, betas=[2.0, 4.0, 2.0])
    assert short.status is Status.MAX_STEPS
    assert (len(short), short.complexity) == (2, 0.75)


def test_a_cascade_converges_to_the_flow_at_first_order():
    statistics = random_problem(seed=1, dim=8).reduced.statistics
    flow = pnc.central_path_flow(statistics, **PARAMETERS, times=[1.0], rtol=1e-9).statistics(0)
    errors = []
    for steps in (16, 32, 64):
        betas = [float(steps)] * steps
        assert pnc.theory.effective_complexity(betas) == pytest.approx(1.0)
        end = pnc.cascade(statistics, **PARAMETERS, betas=betas)[-1].statistics
        gap = (end.means - flow.means).norm() + (end.within - flow.within).norm()
        errors.append(gap.item())
    slopes = -np.diff(np.log2(errors))
    assert ((slopes > 0.9) & (slopes < 1.15)).all()


def test_complexities_add():
    # Without any other regularisation the middle layers are free: eliminate them directly.
    betas = [2.0, 0.5, 4.0]
    h0, h3 = torch.randn(2, 5, dtype=torch.float64)
    # Stationarity of Σ β_l |H_l - H_{l-1}|² in H_1 and H_2, ends fixed.
    system = torch.tensor([[2.5, -0.5], [-0.5, 4.5]], dtype=torch.float64)
    right = torch.stack([2.0 * h0, 4.0 * h3])
    h1, h2 = torch.linalg.solve(system, right)
    chain = [h0, h1, h2, h3]
    value = sum(
        b * (y - x).square().sum() for b, x, y in zip(betas, chain, chain[1:], strict=False)
    )
    single = (h3 - h0).square().sum() / pnc.theory.effective_complexity(betas)
    torch.testing.assert_close(value, single)


def test_bad_arguments_are_named():
    statistics = random_problem(seed=1).reduced.statistics
    with pytest.raises(ValueError, match="betas must hold at least one anchor"):
        pnc.cascade(statistics, **PARAMETERS, betas=[])
    with pytest.raises(ValueError, match=r"betas must be > 0, got 0\.0"):
        pnc.cascade(statistics, **PARAMETERS, betas=[1.0, 0.0])

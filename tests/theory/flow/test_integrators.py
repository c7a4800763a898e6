import pytest
import torch
from flows import flow, problem, propagators
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.flow.integrators import Exponential


@pytest.mark.parametrize("method", ["DOP853", "Radau"])
@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_judges_agree(method, beta):
    dense, times = problem(beta=beta, dim=5), [0.5, 1.5]
    path = flow(dense, times=times, rtol=1e-10)
    judge = flow(dense, times=times, method=method, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(path.means, judge.means, rtol=0, atol=1e-8)
    torch.testing.assert_close(propagators(path), propagators(judge), rtol=0, atol=1e-8)


def test_bad_methods_and_batches_are_named():
    statistics = problem().reduced.statistics
    with pytest.raises(ValueError, match=r"order must be one of \(2, 4\), got 3"):
        Exponential(order=3)
    with pytest.raises(ValueError, match=r"must have one length, got \(2, 1, 2\)"):
        pnc.theory.central_path_flows(statistics, lambda_w=[1.0, 1.0], lambda_h=[1.0], times=[1.0])


@pytest.mark.parametrize("method", ["DOP853", "Radau"])
def test_a_judge_needs_no_absolute_tolerance(method):
    start = random_problem(seed=0).reduced.statistics  # Ψ begins with zeros
    options = {"lambda_w": 0.05, "lambda_h": 0.01, "times": [2.0], "rtol": 1e-8}
    found = pnc.central_path_flow(start, **options, method=method).statistics(0)
    own = pnc.central_path_flow(start, **options).statistics(0)
    torch.testing.assert_close(found.means, own.means, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.within, own.within, rtol=1e-6, atol=1e-8)

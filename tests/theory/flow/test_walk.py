import torch
from flows import flow, problem

import perturb_nc as pnc
from perturb_nc.theory.flow.integrators import Exponential
from perturb_nc.theory.status import Status


def test_stiff_flow_needs_no_tiny_steps():
    # Rates up to 1/(4λ_W/K) = 1e6 for the weakest means, on a path of length 10.
    dense = problem(seed=1, lambda_w=1e-6)
    path = flow(dense, times=[10.0], rtol=1e-6)
    assert path.status is Status.FINISHED
    assert path.cost.steps < 1000
    judge = flow(dense, times=[10.0], method="Radau", rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(path.means, judge.means, rtol=0, atol=2e-4)


def test_features_that_decayed_are_said_to_have():
    path = flow(problem(lambda_h=50.0), times=[1.0, 1e4], rtol=1e-2)
    assert path.status is Status.DECAYED
    assert "lower lambda_h" in path.status.value
    assert path.times[0] == 1.0
    assert 10 < path.times[-1] < 11  # means decay at λ_H - 1/λ_W = 30: e^{-30t} = 1e-139 at 10.7
    assert not path.status.is_done


def test_within_class_deviations_may_vanish_where_means_stay():
    path = flow(problem(lambda_w=0.05, lambda_h=0.5), times=[2e3], rtol=1e-4)
    assert path.status is Status.FINISHED
    assert path.reference.within.trace() > 1
    assert path.statistics(0).within.trace() == 0
    solved = pnc.exact_collapse(num_classes=3, dim=8, lambda_w=0.05, lambda_h=0.5)
    assert path.means[0].norm() > 0.5 * solved.means.norm()


def test_stops_at_the_time_limit_and_goes_on_from_there():
    path = flow(problem(), times=[1.0, 10.0], time_limit=1e-9, rtol=1e-9)
    assert path.status is Status.TIME_LIMIT
    assert path.times[-1] < 1.0
    whole = flow(problem(), times=[1.0], rtol=1e-9)
    torch.testing.assert_close(path.extend([1.0]).means[-1], whole.means[0], rtol=0, atol=1e-7)


def test_stops_at_max_steps_and_says_so():
    path = flow(problem(), times=[10.0, 20.0], method=Exponential(max_steps=3))
    assert path.status is Status.MAX_STEPS
    assert len(path) == 1
    assert path.times[0] < 10

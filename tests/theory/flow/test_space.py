import pytest
import torch
from flows import flow, problem, propagators

import perturb_nc as pnc
from perturb_nc.theory.flow import space as flow_space
from perturb_nc.theory.flow.space import FlowSpace


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_the_subspace_grows_as_accuracy_asks(beta):
    dense = problem(seed=6, dim=60, counts=(40, 60), beta=beta)
    judge = flow(dense, times=[10.0], method="DOP853", rtol=1e-12, atol=1e-13)
    sizes = []
    for rtol in (1e-4, 1e-7, 1e-10):
        path = flow(dense, times=[10.0], rtol=rtol)
        sizes.append(path.cost.dimension)
        torch.testing.assert_close(path.means, judge.means, rtol=0, atol=10 * rtol)
        torch.testing.assert_close(propagators(path), propagators(judge), rtol=0, atol=10 * rtol)
    assert sizes == sorted(sizes)
    assert sizes[-1] < 60
    if beta == 0:
        assert sizes[0] < sizes[-1]


def test_a_subspace_too_small_is_noticed(monkeypatch):
    dense = problem(seed=6, dim=60, counts=(40, 60))
    monkeypatch.setattr(flow_space, "BLOCKS", 2)
    judge = flow(dense, times=[10.0], method="DOP853", rtol=1e-12, atol=1e-13)
    path = flow(dense, times=[10.0], rtol=1e-8)
    torch.testing.assert_close(path.means, judge.means, rtol=0, atol=1e-7)
    monkeypatch.setattr(FlowSpace, "neglected", lambda *_: 0.0)
    blind = flow(dense, times=[10.0], rtol=1e-8)
    assert blind.cost.dimension == 4
    assert (blind.means - judge.means).abs().max() > 1e-5


def test_what_is_neglected_is_the_residual_of_the_weight(monkeypatch):
    monkeypatch.setattr(flow_space, "BLOCKS", 3)
    reference = problem(seed=6, dim=40, counts=(40, 60)).reduced.statistics
    path = pnc.central_path_flow(reference, lambda_w=0.05, lambda_h=0.02, times=[3.0], rtol=1e-2)
    space, state = path._space(), path._state(0)
    weight = space.model.weight(state)
    now, w = path.statistics(0), weight[0] @ space.basis[0].mT
    ridge = 0.05 / 2 * torch.eye(40)
    pull = now.priors[:, None] * now.means
    residual = (w @ (now.second_moment + ridge) - pull) / path.outer[0]
    square = ((residual @ torch.linalg.inv(reference.second_moment + ridge)) * residual).sum()
    expected = (square / (w * pull).sum()).sqrt().item()
    assert expected > 1e-7
    assert space.neglected(state, weight) == pytest.approx(expected, rel=1e-8)

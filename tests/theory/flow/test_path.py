import pytest
import torch
from flows import flow, problem, propagators

import perturb_nc as pnc
from perturb_nc.theory.flow import exponential
from perturb_nc.theory.flow.integrators import Exponential
from perturb_nc.theory.status import Status


def test_stops_where_a_metric_reaches_a_value():
    dense = problem(seed=2)
    path = flow(dense, times=[100.0], until={"nc1_trace": 0.5, "cdnv": 1e-9}, rtol=1e-8)
    assert path.status is Status.EVENT
    assert 0 < path.times[-1] < 100
    assert path.metrics[-1].nc1_trace == pytest.approx(0.5, rel=1e-9)
    judge = flow(dense, times=[path.times[-1].item()], method="DOP853", rtol=1e-10, atol=1e-12)
    assert judge.metrics[-1].nc1_trace == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.7])
def test_resumes_saves_loads_and_gives_dense_output(tmp_path, beta):
    dense = problem(seed=2, beta=beta)
    whole = flow(dense, times=[0.5, 1.0, 4.0], rtol=1e-10)
    part = flow(dense, times=[0.5, 1.0], rtol=1e-10)
    part.save(tmp_path / "path.safetensors")
    loaded = pnc.FlowPath.load(tmp_path / "path.safetensors")
    assert propagators(loaded).equal(propagators(part))
    assert (loaded.status, loaded.cost, loaded.beta) == (part.status, part.cost, beta)
    longer = loaded.extend([4.0])
    assert longer.times.tolist() == [0.5, 1.0, 4.0]
    assert longer.cost.steps > part.cost.steps
    torch.testing.assert_close(longer.means, whole.means, rtol=0, atol=1e-8)
    torch.testing.assert_close(propagators(longer), propagators(whole), rtol=0, atol=1e-8)
    for time in (0.0, 0.2, 2.5):
        judge = flow(dense, times=[max(time, 1e-12)], method="DOP853", rtol=1e-11, atol=1e-13)
        found, expected = whole.at(time), judge.statistics(0)
        torch.testing.assert_close(found.means, expected.means, rtol=0, atol=1e-8)
        torch.testing.assert_close(found.within, expected.within, rtol=0, atol=1e-8)
    with pytest.raises(ValueError, match=r"time must be <= 4.0, got 5.0; use extend"):
        whole.at(5.0)
    with pytest.raises(ValueError, match=r"times must not lie before 4.0"):
        whole.extend([3.0])
    pnc.save_layers({"": dense.reduced.statistics}, tmp_path / "layer.safetensors")
    with pytest.raises(ValueError, match="holds no flow path"):
        pnc.FlowPath.load(tmp_path / "layer.safetensors")


@pytest.mark.parametrize("method", [Exponential(order=2, step=1 / 16), Exponential(max_steps=7)])
def test_a_path_goes_on_with_its_own_method(tmp_path, method):
    path = flow(problem(), times=[0.25, 0.5], method=method)
    path.save(tmp_path / "path.safetensors")
    for kept in (path, pnc.FlowPath.load(tmp_path / "path.safetensors")):
        assert kept.method == method
        if method.step is None:
            longer = kept.extend([40.0])
            assert longer.status is Status.MAX_STEPS
        else:
            longer = kept.extend([1.0])
            assert longer.cost.steps == 16
            one_step = problem_step(path, 1 / 16)
            torch.testing.assert_close(kept.at(0.3125).means, one_step, rtol=0, atol=1e-14)
        assert longer.method == method


def problem_step(path, size):
    """Class means one midpoint step after the first time of a path."""
    space, state = path._space(), path._state(0)
    weight = space.model.weight(state)
    new, *_ = exponential.magnus_step(space.model, state, weight, size, 2)
    return (new.means @ space.basis.mT)[0]


def test_a_judge_goes_on_as_a_judge(tmp_path):
    path = flow(problem(dim=4), times=[0.5], method="Radau", rtol=1e-8, atol=1e-10)
    path.save(tmp_path / "path.safetensors")
    loaded = pnc.FlowPath.load(tmp_path / "path.safetensors")
    assert loaded.method == path.method
    whole = flow(problem(dim=4), times=[1.0], method="DOP853", rtol=1e-11, atol=1e-13)
    assert loaded.extend([1.0]).cost.rejected == 0
    torch.testing.assert_close(loaded.extend([1.0]).means[-1], whole.means[0], rtol=0, atol=1e-6)

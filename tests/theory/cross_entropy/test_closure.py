import dataclasses

import numpy as np
import pytest
import torch

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.closure import Spread, _Closure, cross_entropy_closure
from perturb_nc.theory.cross_entropy.flow import cross_entropy_flow

fast = pytest.mark.usefixtures("unchecked")
STRENGTHS = {"lambda_w": 0.05, "lambda_h": 0.05, "beta": 1.0}
CASES = (
    {},
    {"bias": False},
    {"bias_decay": True, "label_smoothing": 0.1, "class_weights": (1.0, 2.0, 0.5)},
)


def spread_out(size, *, skew=0.0, **options):
    """Three classes with deviations ±ξ of a size, of another covariance in each."""
    generator = torch.Generator().manual_seed(3)
    means, own = (torch.randn(*s, generator=generator).double() for s in ((3, 5), (3, 6, 5)))
    own = own * torch.tensor([0.5, 1.0, 1.5]).double()[:, None, None]
    own = torch.cat([own, -own * (1 - skew)], dim=1)
    features = (means[:, None] + size * (own - own.mean(1, keepdim=True))).flatten(0, 1)
    labels = torch.arange(3).repeat_interleave(12)
    return pnc.CrossEntropyProblem(features, labels, **{**STRENGTHS, **options})


def errors(size, **options):
    """Relative errors of weight, means and Σ_W after some time."""
    problem = spread_out(size, **options)
    closed = cross_entropy_closure(problem, times=[1.0], rtol=1e-6)
    exact = cross_entropy_flow(problem, times=[1.0], rtol=3e-5, atol=1e-11)
    own, wanted = closed.statistics[0], exact.statistics(0)
    pairs = (
        (closed.weight, exact.weight), (own.means, wanted.means), (own.within, wanted.within),
    )  # fmt: skip
    return [((a - b).norm() / b.norm()).item() for a, b in pairs]


@pytest.mark.slow
@fast
@pytest.mark.parametrize("options", CASES, ids=str)
def test_the_error_is_of_second_order_in_the_covariances(options):
    sizes = np.array([0.4, 0.2, 0.1])
    logs = np.log([errors(s, **options) for s in sizes])
    found = np.diff(logs, axis=0) / np.diff(np.log(sizes))[:, None]
    assert found[0, :2].min() > 3.2
    assert found[1, 2] == pytest.approx(2, abs=0.4)  # relative, of what is second order itself


@fast
def test_it_is_near_the_flow_of_the_samples():
    weight, means, within = errors(0.2)
    assert weight < 3e-3
    assert means < 1e-3
    assert 1e-4 < within < 3e-2


@fast
@pytest.mark.parametrize("options", CASES, ids=str)
def test_it_is_the_gradient_flow_of_its_value(options):
    walk, h = _Closure(spread_out(0.5, **options), 1e-7), 1e-4
    state, slope = walk.start, walk.slope(walk.start)
    ahead, behind = (walk.outcome(state.moved((s * h, slope)))[-1] for s in (1, -1))
    point = walk.regression(state)
    rates = point.layer.mT @ point.curvature @ point.layer + 0.05 * torch.eye(5).double()
    lost = (rates @ state.covariances @ rates).diagonal(dim1=1, dim2=2).sum(1)
    expected = -point.priors @ (slope.means.square().sum(1) + lost)
    assert (ahead - behind) / (2 * h) == pytest.approx(expected.item(), rel=1e-5)


@fast
def test_value_and_scaled_spread_fall():
    path = cross_entropy_closure(spread_out(0.8), times=[0.0, 0.3, 1.0, 3.0])
    assert path.status is pnc.Status.FINISHED
    assert (path.value.diff() < 0).all()
    traces = torch.stack([s.within.trace() for s in path.statistics])
    assert ((traces * (0.1 * path.times).exp()).diff() < 0).all()
    start = spread_out(0.8).statistics
    torch.testing.assert_close(path.statistics[0].within, start.within)
    torch.testing.assert_close(path.statistics[0].class_variance, start.class_variance)
    assert "FINISHED" in str(path)


@pytest.mark.parametrize("options", CASES, ids=str)
def test_gradient_and_products_are_derivatives(options):
    walk = _Closure(spread_out(0.5, **options), 1e-7)
    point = walk.regression(walk.start)
    assert point.gradient_norm < 1e-11
    weight = point.weight + 0.1 * torch.randn_like(point.weight)
    point, h, v = dataclasses.replace(point, weight=weight), 1e-5, torch.randn_like(weight)
    ahead, behind = (dataclasses.replace(point, weight=weight + s * h * v) for s in (1, -1))
    slope = ((ahead.value - behind.value) / (2 * h)).item()
    assert (point.gradient * v).sum().item() == pytest.approx(slope, rel=1e-7)
    turn = (ahead.gradient - behind.gradient) / (2 * h)
    torch.testing.assert_close(point.hessian_vector_product(v), turn, rtol=1e-6, atol=1e-8)


def test_a_step_adds_multiples():
    one = Spread(torch.ones(2, 3).double(), torch.ones(2, 3, 3).double())
    moved = one.moved((0.5, one), (2.0, one))
    assert moved.means.eq(3.5).all()
    assert moved.covariances.eq(3.5).all()


def test_bad_arguments_are_named():
    problem = spread_out(0.5)
    with pytest.raises(ValueError, match="times must increase from 0 on, got"):
        cross_entropy_closure(problem, times=[1.0, 0.5])
    with pytest.raises(ValueError, match=r"rtol must be > 0, got 0\.0"):
        cross_entropy_closure(problem, times=[1.0], rtol=0.0)
    stopped = cross_entropy_closure(problem, times=[0.0, 1.0], max_steps=1)
    assert stopped.status is pnc.Status.MAX_STEPS
    assert len(stopped.statistics) == 1

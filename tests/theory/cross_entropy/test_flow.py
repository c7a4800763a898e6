import math

import numpy as np
import pytest
import torch
from dense_cross_entropy import dense_cross_entropy
from scipy.integrate import solve_ivp

import perturb_nc as pnc
from perturb_nc.theory.cross_entropy.flow import cross_entropy_flow
from perturb_nc.theory.cross_entropy.problem import CrossEntropyProblem


def judged(dense, end, beta=0.0):
    """scipy's DOP853 on H, with the last layer by minimize at an overwhelming anchor."""
    shape = dense.reference.shape
    strengths = {"lambda_w": dense.lambda_w, "lambda_h": 0.0, "beta": 1e9}

    def slope(_, flat):
        h = torch.from_numpy(flat.copy()).view(shape)
        solution = pnc.minimize(CrossEntropyProblem(h, dense.labels, **strengths), tol=1e-12)
        p = (h @ solution.weight.mT + solution.bias).softmax(1)
        onehot = torch.nn.functional.one_hot(dense.labels).double()
        pull = (onehot - p) @ solution.weight - dense.lambda_h * h
        return (pull + beta * (dense.reference - h)).flatten().numpy()

    start = dense.reference.flatten().numpy()
    found = solve_ivp(slope, (0, end), start, method="DOP853", rtol=1e-6, atol=1e-8)
    return torch.from_numpy(np.ascontiguousarray(found.y[:, -1])).view(shape)


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_against_scipy_on_the_samples(beta):
    dense = dense_cross_entropy(seed=1, num_classes=3, dim=4, counts=(3, 3, 3), lambda_w=0.1)
    path = cross_entropy_flow(dense.problem, times=[0.0, 1.0], beta=beta, rtol=1e-5, atol=1e-10)
    expected = judged(dense, 1.0, beta)
    assert (path.features[1] - expected).abs().max() < 1e-4
    torch.testing.assert_close(path.features[0], dense.reference)


@pytest.mark.slow
def test_order_two():
    dense = dense_cross_entropy(seed=2, num_classes=3, dim=4, counts=(3, 3, 3), lambda_w=0.1)
    fine = cross_entropy_flow(dense.problem, times=[1.0], rtol=1e-5, atol=1e-12).features[0]
    errors, counts = [], []
    for rtol in (1e-2, 1e-3):
        path = cross_entropy_flow(dense.problem, times=[1.0], rtol=rtol, atol=1e-12)
        errors.append((path.features[0] - fine).norm().item())
        counts.append(path.steps)
    slope = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
    assert slope > 1.7


@pytest.mark.slow
def test_it_descends_and_ends_where_the_model_does():
    dense = dense_cross_entropy(
        seed=3, num_classes=3, dim=4, counts=(3, 3, 3), lambda_w=0.1, lambda_h=0.1, beta=0.5
    )
    path = cross_entropy_flow(dense.problem, times=[300.0], beta=0.5, rtol=1e-2)
    assert path.status is pnc.Status.FINISHED
    end = pnc.minimize(dense.problem)
    expected = end.features(dense.reference, dense.labels)
    assert (path.features[-1] - expected).abs().max() < 1e-3
    free = cross_entropy_flow(dense.problem, times=[0.0, 1.0, 4.0], rtol=1e-3)
    assert (free.value.diff() < 0).all()
    spread = [free.statistics(i).within.trace().item() for i in range(3)]
    grown = [math.exp(2 * 0.1 * t) * v for t, v in zip(free.times.tolist(), spread, strict=True)]
    assert grown == sorted(grown, reverse=True)


def test_the_objective_falls():
    dense = dense_cross_entropy(seed=3, num_classes=3, dim=4, counts=(3, 3, 3), lambda_w=0.1)
    path = cross_entropy_flow(dense.problem, times=[0.0, 0.5, 2.0], rtol=1e-2)
    assert (path.value.diff() < 0).all()
    torch.testing.assert_close(path.features[0], dense.reference)


FREE = {"num_classes": 4, "dim": 5, "counts": (3, 6, 4, 5), "lambda_w": 0.1, "lambda_h": 0.2}


def between(statistics, bias):
    """What grows but for λ_H: the spread of the class means, or without a bias their size."""
    means, priors = statistics.means, statistics.priors
    return (priors @ (means - bias * (priors @ means)).square().sum(1)).item()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "options",
    [{}, {"label_smoothing": 0.2, "class_weights": (1.0, 2.5, 0.5, 1.5)}, {"bias": False}],
    ids=str,
)
def test_what_is_monotone_along_it(options):
    dense = dense_cross_entropy(seed=4, **FREE, **options)
    times, bias = [0.0, 0.1, 0.5, 1.5, 4.0], dense.has_bias
    path = cross_entropy_flow(dense.problem, times=times, rtol=1e-2)
    growth = (dense.lambda_h * path.times).exp()
    same = dense.labels[:, None] == dense.labels
    apart = torch.cdist(path.features, path.features) * growth[:, None, None]
    assert (apart.diff(dim=0)[:, same] <= 1e-9).all()
    assert apart.diff(dim=0)[:, ~same].max() > 0.01  # of different classes they do move apart
    spread = growth**2 * torch.tensor([between(path.statistics(i), bias) for i in range(5)])
    assert (spread.diff() > 0).all()
    # Its rate, 2(λ_W|W|²/K + v).
    h = 1e-3
    near = cross_entropy_flow(dense.problem, times=[h, 2 * h, 3 * h], rtol=1e-4, atol=1e-12)
    own = [between(near.statistics(i), bias) for i in range(3)]
    found = (own[2] - own[0]) / (4 * h) + dense.lambda_h * own[1]
    w, features, y = near.weight[1], near.features[1], dense.labels
    logits = features @ w.mT + (near.bias[1] if bias else 0)
    targets = dense.problem.targets(y)
    q = targets.residuals(logits.softmax(1))
    counts = torch.bincount(y)[:, None]
    deviations, excess = (
        x - (x.new_zeros(4, x.shape[1]).index_add_(0, y, x) / counts)[y] for x in (features, q)
    )
    within = (excess * (deviations @ w.mT)).sum() / len(y)
    assert within > 0
    rate = dense.lambda_w * w.square().sum() / 4 + within
    assert found == pytest.approx(rate.item(), rel=1e-3)


def test_bad_arguments_are_named():
    problem = dense_cross_entropy(seed=1).problem
    with pytest.raises(ValueError, match="times must increase from 0 on, got"):
        cross_entropy_flow(problem, times=[1.0, 0.5])
    with pytest.raises(ValueError, match=r"rtol must be > 0, got 0\.0"):
        cross_entropy_flow(problem, times=[1.0], rtol=0.0)
    stopped = cross_entropy_flow(problem, times=[0.0, 1.0], max_steps=1)
    assert stopped.status is pnc.Status.MAX_STEPS
    assert len(stopped.times) == 1

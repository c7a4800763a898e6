"""The straight line of a chain that is trained as a whole, against its dense objective."""

import pytest
import torch
from own_networks import chain_objective, minimised_chain
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory.flow.chain import chain

BETAS, LAYER_DECAY = (2.0, 0.5, 1.0), 0.3
PARAMETERS = {"lambda_w": 0.05, "lambda_h": 0.02}


def dense_gradients(problem, found, decay, bend=1.0):
    """Of the objective over W and every layer, by automatic differentiation on full matrices."""
    x, y = problem.reference.mT, problem.labels
    layers = [found.features(x, y, i) for i in range(len(found))]
    layers[0] = bend * layers[0]
    unknowns = [found.solution.weight.clone(), *layers]
    for tensor in unknowns:
        tensor.requires_grad_()
    weight, *layers = unknowns
    total = chain_objective(problem, BETAS, decay, weight, layers)
    return [g.abs().max().item() for g in torch.autograd.grad(total, unknowns)]


@pytest.mark.parametrize("decay", [0.0, LAYER_DECAY])
def test_every_gradient_of_the_whole_chain_vanishes(decay):
    problem = random_problem(seed=1, dim=8)
    found = chain(problem.reduced.statistics, **PARAMETERS, betas=BETAS, layer_decay=decay)
    assert max(dense_gradients(problem, found, decay)) < 1e-10
    assert max(dense_gradients(problem, found, decay, bend=1.01)) > 1e-5
    assert max(dense_gradients(problem, found, 1.01 * LAYER_DECAY)) > 1e-5


@pytest.mark.parametrize("decay", [0.0, LAYER_DECAY])
def test_the_sum_over_all_layers_is_least_there(decay):
    problem = random_problem(seed=1, dim=4, num_classes=3)
    found = chain(problem.reduced.statistics, **PARAMETERS, betas=BETAS, layer_decay=decay)
    least, weight, layers = minimised_chain(problem, BETAS, decay)
    x, y = problem.reference.mT, problem.labels
    own = [found.features(x, y, i) for i in range(len(found))]
    reached = chain_objective(problem, BETAS, decay, found.solution.weight, own).item()
    assert reached == pytest.approx(least, rel=1e-10)
    for ours, theirs in zip((found.solution.weight, *own), (weight, *layers), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    bent = chain_objective(problem, BETAS, decay, 1.01 * found.solution.weight, own).item()
    assert bent > reached + 1e-7


@pytest.mark.parametrize("decay", [0.0, LAYER_DECAY])
def test_statistics_are_those_of_the_features(decay):
    problem = random_problem(seed=2, dim=8)
    x, y = problem.reference.mT, problem.labels
    found = chain(problem.reduced.statistics, **PARAMETERS, betas=BETAS, layer_decay=decay)
    for i in range(len(found)):
        own = pnc.ClassStatistics.from_features(found.features(x, y, i), y)
        torch.testing.assert_close(found.statistics(i).means, own.means, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.statistics(i).within, own.within, rtol=0, atol=1e-12)


def test_layers_divide_the_segment_to_one_optimum_as_complexities_add():
    statistics = random_problem(seed=1, dim=8).reduced.statistics
    found = chain(statistics, **PARAMETERS, betas=BETAS)
    one = pnc.minimize(pnc.NearCollapseProblem(statistics, **PARAMETERS, beta=1 / 3.5))
    torch.testing.assert_close(found.solution.weight, one.weight, rtol=0, atol=1e-8)
    for (a, b), share in zip(found.coefficients, (0.5 / 3.5, 2.5 / 3.5, 1.0), strict=True):
        assert (a, b) == (pytest.approx(1 - share, abs=1e-14), pytest.approx(share, abs=1e-14))
        # The identity of the straight line, and what 1 % less of τ would be.
        line = (1 - share) * statistics.means + share * found.solution.statistics.means
        at = found.coefficients.index((a, b))
        assert (found.statistics(at).means - line).abs().max() < 1e-12
        bent = (1 - 0.99 * share) * statistics.means + 0.99 * share * line
        assert (found.statistics(at).means - bent).abs().max() > 1e-5
    last = found.statistics(2)
    torch.testing.assert_close(last.within, found.solution.statistics.within, rtol=0, atol=1e-12)


def test_bad_chains_are_refused():
    statistics = random_problem(seed=1, dim=8).reduced.statistics
    with pytest.raises(ValueError, match="betas must be > 0"):
        chain(statistics, **PARAMETERS, betas=[1.0, 0.0])
    with pytest.raises(ValueError, match="at least one anchor"):
        chain(statistics, **PARAMETERS, betas=[])
    with pytest.raises(ValueError, match="layer_decay must be"):
        chain(statistics, **PARAMETERS, betas=[1.0], layer_decay=-0.1)

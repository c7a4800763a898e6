import dataclasses

import numpy as np
import pytest
import torch
from problems import random_problem

import perturb_nc as pnc
from perturb_nc.theory import isolated
from perturb_nc.theory import response as response_module

CASES = {
    "balanced": {},
    "bias": {"bias": True},
    "imbalanced": {"counts": (2, 4, 3)},
    "imbalanced, bias, offset": {"counts": (2, 4, 3), "bias": True, "offset": 1.0},
    "no feature decay": {"lambda_h": 0.0},
    "unused dimensions": {"dim": 14},
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
SMALL = {"num_classes": 3, "dim": 5, "seed": 3}


def solve(dense, **keywords):
    return pnc.minimize(dense.reduced, tol=1e-13, **keywords)


def respond(dense):
    return pnc.linear_response(solve(dense), dense.reference.mT, dense.labels)


def dense_response(dense, solution):
    """δ(H, W, b)/δH0 from the full Hessian of f in all its variables, formed by autograd."""
    features = solution.features(dense.reference.mT, dense.labels).mT.contiguous()
    bias = solution.bias if dense.bias else torch.zeros(0, dtype=torch.float64)
    sizes = [features.numel(), solution.weight.numel(), len(bias)]

    def objective(flat, reference):
        h, w, b = flat.split(sizes)
        at = dataclasses.replace(dense, reference=reference.view_as(features))
        full = b if dense.bias else torch.zeros(dense.num_classes, dtype=torch.float64)
        return at.objective(w.view_as(solution.weight), h.view_as(features), full)

    flat = torch.cat([features.flatten(), solution.weight.flatten(), bias])
    hessian = torch.func.jacrev(torch.func.grad(objective))(flat, dense.reference.flatten())
    mixed = torch.func.jacrev(torch.func.grad(objective), argnums=1)(
        flat, dense.reference.flatten()
    )
    return -torch.linalg.solve(hessian, mixed).split(sizes)[0], -torch.linalg.solve(
        hessian, mixed
    ).split(sizes)[1]


@cases
@pytest.mark.parametrize("iterative", [False, True])
def test_against_the_dense_hessian(case, iterative, monkeypatch):
    dense = random_problem(**{**SMALL, **case})
    response = respond(dense)
    by_h, by_w = dense_response(dense, response.solution)
    if iterative:
        monkeypatch.setattr(isolated, "_DENSE_LIMIT", 0)
    perturbation = torch.randn_like(dense.reference)
    found = response.apply(perturbation.mT).mT.flatten()
    torch.testing.assert_close(found, by_h @ perturbation.flatten(), rtol=1e-8, atol=1e-8)
    found = response.weight(perturbation.mT).flatten()
    torch.testing.assert_close(found, by_w @ perturbation.flatten(), rtol=1e-8, atol=1e-8)


def remainder_slopes(dense, scale=1.0):
    """log2 ratios of |H(H0 + ε) - H - F ε| for halved steps along a unit direction."""
    response = respond(dense)
    before = response.features
    direction = torch.randn_like(dense.reference)
    direction /= direction.norm()
    linear = scale * response.apply(direction.mT)
    remainders = []
    for step in 2.0 ** -np.arange(6, 10):
        moved = dataclasses.replace(dense, reference=dense.reference + step * direction)
        solution = solve(moved, initial_weight=response.solution.weight)
        after = solution.features(moved.reference.mT, moved.labels)
        remainders.append((after - before - step * linear).norm().item())
    return -np.diff(np.log2(remainders))


@cases
def test_remainder_is_second_order(case):
    dense = random_problem(**{**SMALL, **case})
    assert (remainder_slopes(dense) > 1.9).all()


def test_a_one_percent_mutation_makes_it_first_order():
    slopes = remainder_slopes(random_problem(**SMALL), scale=1.01)
    assert (slopes < 1.5).all()


@pytest.mark.parametrize("bias", [False, True])
def test_large_beta_form_is_the_expansion_to_first_order(bias):
    errors = []
    for beta in (50.0, 100.0, 200.0, 400.0):
        dense = random_problem(**SMALL, beta=beta, bias=bias)
        torch.manual_seed(0)
        perturbation = torch.randn_like(dense.reference).mT
        response = respond(dense)
        gap = response.apply(perturbation, order="large_beta") - response.apply(perturbation)
        errors.append(gap.norm().item())
    slopes = -np.diff(np.log2(errors))
    assert ((slopes > 1.9) & (slopes < 2.1)).all()
    assert respond(dense).apply(perturbation, order="exact").equal(response.apply(perturbation))


def test_response_is_not_a_contraction_away_from_collapse():
    dense = random_problem(seed=0, num_classes=3, dim=5, lambda_w=0.01, lambda_h=0.01, beta=0.05)
    by_h, _ = dense_response(dense, solve(dense))
    assert torch.linalg.matrix_norm(by_h, 2) > 1.05


@pytest.mark.usefixtures("unchecked")
def test_refuses_what_it_cannot_differentiate():
    dense = random_problem(**SMALL)
    solution = pnc.minimize(dense.reduced)
    with pytest.raises(ValueError, match="must be those the problem was built from"):
        pnc.linear_response(solution, 1.01 * dense.reference.mT, dense.labels)
    spread = dense.reference.mT.clone()
    means = dense.reduced.statistics.means[dense.labels]
    with pytest.raises(ValueError, match="must be those the problem was built from"):
        pnc.linear_response(solution, means + 3 * (spread - means), dense.labels)
    with pytest.raises(ValueError, match="must be those the problem was built from"):
        pnc.linear_response(solution, dense.reference.mT, (dense.labels + 1) % 3)
    response = pnc.linear_response(solution, dense.reference.mT, dense.labels)
    with pytest.raises(ValueError, match="perturbation must have one row per sample: got 2 for 18"):
        response.apply(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="order must be 'exact' or 'large_beta', got 'second'"):
        response_module.LinearResponse.apply.__wrapped__(
            response, torch.zeros(18, 5), order="second"
        )

import dataclasses

import mpmath
import numpy as np
import pytest
import torch
from problems import DenseProblem, random_problem

import perturb_nc as pnc
from perturb_nc.theory import response as response_module
from perturb_nc.theory.deep.collapse import deep_collapse_optimum

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
        monkeypatch.setattr(response_module, "_DENSE_LIMIT", 0)
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


def collapsed_response(*, num_classes, dim, n, lambda_w, lambda_h, beta):
    exact = pnc.exact_collapse(
        num_classes=num_classes, dim=dim, lambda_w=lambda_w, lambda_h=lambda_h
    )
    labels = torch.arange(num_classes).repeat_interleave(n)
    reference = exact.means[labels]
    dense = DenseProblem(reference.mT, labels, lambda_w, lambda_h, beta)
    response = respond(dense)
    torch.testing.assert_close(response.features, reference)
    units = torch.eye(reference.numel(), dtype=torch.float64).unflatten(1, reference.shape)
    return torch.stack([response.apply(unit).flatten() for unit in units])


@pytest.mark.parametrize("beta", [0.05, 1.0, 100.0])
@pytest.mark.parametrize(("lambda_w", "lambda_h"), [(2**0.5, 0.3), (0.1, 0.02)])
@pytest.mark.parametrize(("num_classes", "dim", "n"), [(3, 5, 3), (4, 4, 2), (2, 4, 1)])
def test_spectrum_at_collapse_is_the_predicted_one(num_classes, dim, n, lambda_w, lambda_h, beta):
    f = collapsed_response(
        num_classes=num_classes, dim=dim, n=n, lambda_w=lambda_w, lambda_h=lambda_h, beta=beta
    )
    spectrum = pnc.near_collapse_spectrum(
        num_classes=num_classes,
        dim=dim,
        samples_per_class=n,
        lambda_w=lambda_w,
        lambda_h=lambda_h,
        beta=beta,
    )
    torch.testing.assert_close(f, f.mT, rtol=0, atol=1e-12)
    expected = np.sort(np.repeat(spectrum.eigenvalues, spectrum.multiplicities))
    np.testing.assert_allclose(torch.linalg.eigvalsh(f).numpy(), expected, rtol=0, atol=1e-12)
    size = dim * n
    block = torch.linalg.svdvals(f[:size, :size]).flip(0).numpy()
    expected = np.sort(np.repeat(spectrum.block_values, spectrum.block_multiplicities))
    np.testing.assert_allclose(block, expected, rtol=0, atol=1e-12)
    off_block = torch.linalg.svdvals(f[:size, size : 2 * size]).numpy()
    np.testing.assert_allclose(off_block[0], spectrum.off_block_value, rtol=0, atol=1e-12)
    np.testing.assert_allclose(off_block[1:], 0.0, rtol=0, atol=1e-12)


def eigenvalues_at_collapse(means, weight, counts, bias=False):
    """Of F at H0 = H* with these means, which must be an optimum."""
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    reference = means[labels]
    dense = DenseProblem(reference.mT, labels, 0.1, 0.02, 1.0, bias)
    assert dense.reduced.at(weight).gradient_norm < 1e-12
    solution = pnc.minimize(dense.reduced, tol=1e-13)
    response = pnc.linear_response(solution, reference, labels)
    torch.testing.assert_close(response.features, reference)
    units = torch.eye(reference.numel(), dtype=torch.float64).unflatten(1, reference.shape)
    f = torch.stack([response.apply(unit).flatten() for unit in units])
    return np.sort(torch.linalg.eigvals(f).real.numpy())


def predicted_eigenvalues(n):
    spectrum = pnc.near_collapse_spectrum(
        num_classes=3, dim=5, samples_per_class=n, lambda_w=0.1, lambda_h=0.02, beta=1.0
    )
    return np.sort(np.repeat(spectrum.eigenvalues, spectrum.multiplicities))


def test_spectrum_is_not_that_of_the_model_with_bias():
    settings = {"num_classes": 3, "dim": 5, "lambda_w": 0.1, "lambda_h": 0.02}
    for bias, gap in ((False, 1e-9), (True, None)):
        exact = pnc.exact_collapse(**settings, bias=bias)
        found = eigenvalues_at_collapse(exact.means, exact.weight, (2, 2, 2), bias)
        error = np.abs(found - predicted_eigenvalues(2)).max()
        assert error < gap if gap else error > 0.01


def test_spectrum_is_not_that_of_imbalanced_classes():
    exact = deep_collapse_optimum(
        depth=1,
        num_classes=3,
        samples_per_class=(1, 2, 3),
        lambdas=0.1 / 3,
        lambda_h=0.02 / 6,
    )
    features, (weight,) = exact.parameters((5,))
    found = eigenvalues_at_collapse(features[[0, 1, 3]], weight, (1, 2, 3))
    assert np.abs(found - predicted_eigenvalues(2)).max() > 0.01


def test_response_is_not_a_contraction_away_from_collapse():
    dense = random_problem(seed=0, num_classes=3, dim=5, lambda_w=0.01, lambda_h=0.01, beta=0.05)
    by_h, _ = dense_response(dense, solve(dense))
    assert torch.linalg.matrix_norm(by_h, 2) > 1.05


@pytest.mark.parametrize(
    "case", [{}, {"bias": True, "counts": (3, 4, 8, 5)}], ids=["plain", "bias"]
)
@pytest.mark.parametrize("name", response_module.HYPERPARAMETERS)
def test_hyperparameter_derivatives_against_central_differences(name, case):
    dense = random_problem(seed=4, **case)
    solution = solve(dense)
    response = pnc.hyperparameter_response(solution)
    step = 1e-4 * getattr(dense, name)
    ends = []
    for sign in (1, -1):
        moved = dataclasses.replace(dense, **{name: getattr(dense, name) + sign * step})
        ends.append(solve(moved, initial_weight=solution.weight))
    up, down = ends

    def check(derivative, upper, lower):
        difference = (upper - lower) / (2 * step)
        scale = difference.abs().max().item()
        torch.testing.assert_close(derivative, difference, rtol=0, atol=1e-6 * scale)

    check(response.weight[name], up.weight, down.weight)
    check(response.means[name], up.statistics.means, down.statistics.means)
    check(response.within[name], up.statistics.within, down.statistics.within)
    rate = (up.objective - down.objective) / (2 * step)
    assert response.objective[name] == pytest.approx(rate, rel=1e-6)
    above, below = (pnc.collapse_metrics(s.statistics, s.weight).as_dict() for s in ends)
    for metric, derivative in response.metrics[name].items():
        rate = (above[metric] - below[metric]) / (2 * step)
        assert derivative == pytest.approx(rate, rel=1e-4, nan_ok=True), metric
    undefined = [m for m, value in response.metrics[name].items() if np.isnan(value)]
    assert undefined == (["nc3_alignment"] if dense.bias else [])  # W has rank K - 1 with bias


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("c0", [0.5, 0.999, 0.999999])
def test_hyperparameter_derivatives_on_a_frame_against_mpmath(c0, scale):
    """H0 = scale · H*: W = wR, M = mR, two equations in w and m, by 50 digits."""
    lambda_h, beta = 0.3, 0.7
    lambda_w = c0**2 / lambda_h
    exact = pnc.exact_collapse(num_classes=3, dim=5, lambda_w=lambda_w, lambda_h=lambda_h)
    reference = dataclasses.replace(exact.statistics(4), means=scale * exact.means)
    settings = {"lambda_w": lambda_w, "lambda_h": lambda_h, "beta": beta}
    solution = pnc.minimize(pnc.NearCollapseProblem(reference, **settings), tol=1e-15)
    response = pnc.hyperparameter_response(solution)
    frame = exact.means / exact.means.norm()

    def size(rows):
        return (rows * frame).sum().item() / 3**0.5

    with mpmath.workdps(50):
        w, m = mpmath.findroot(
            lambda w, m: (
                lambda_w * w - m * (1 - w * m),
                lambda_h * m - w * (1 - w * m) + beta * (m - size(reference.means)),
            ),
            (size(solution.weight), size(solution.statistics.means)),
        )
        hessian = mpmath.matrix(
            [[m * m + lambda_w, 2 * w * m - 1], [2 * w * m - 1, w * w + lambda_h + beta]]
        )
        for name, right in {
            "lambda_w": (w, 0), "lambda_h": (0, m), "beta": (0, m - size(reference.means)),
        }.items():  # fmt: skip
            expected = -mpmath.lu_solve(hessian, mpmath.matrix(right))
            found = size(response.weight[name]), size(response.means[name])
            for value, own, of in zip(found, expected, (w, m), strict=True):
                # In units of the optimum: the derivative in beta is 0 at scale 1.
                assert value == pytest.approx(float(own), rel=1e-9, abs=1e-12 * float(of))


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
    free = pnc.minimize(random_problem(**SMALL, beta=0.0).reduced)
    with pytest.raises(ValueError, match="beta of the solution"):
        pnc.hyperparameter_response(free)
    rough = pnc.minimize(random_problem(**SMALL, beta=0.01).reduced, max_steps=1)
    with pytest.raises(ValueError, match="must have converged; it stopped at max_steps"):
        pnc.hyperparameter_response(rough)
    rough = pnc.minimize(dense.reduced, tol=0.1)
    with pytest.raises(ValueError, match=r"must be stationary to 1e-06, got gradient_norm = "):
        pnc.hyperparameter_response(rough)


@pytest.mark.parametrize("iterative", [False, True])
def test_refuses_a_family_of_optima(iterative, monkeypatch):
    # No class means and isotropic deviations: every rotation of the optimum is one.
    if iterative:
        monkeypatch.setattr(response_module, "_DENSE_LIMIT", 0)
    reference = torch.cat([torch.eye(4), -torch.eye(4)] * 2).double()
    labels = torch.arange(2).repeat_interleave(8)
    dense = DenseProblem(reference.mT, labels, 1e-3, 0.05, 0.05)
    solution = pnc.minimize(dense.reduced)
    assert solution.weight.norm() > 0.1
    response = pnc.linear_response(solution, reference, labels)
    with pytest.raises(ValueError, match="solution must be an isolated optimum"):
        response.weight(torch.randn(16, 4))


def test_a_metric_at_zero_has_no_derivative():
    dense = random_problem(seed=4, num_classes=2)
    response = pnc.hyperparameter_response(solve(dense))
    for derivatives in response.metrics.values():
        assert np.isnan(derivatives["nc2_equinorm"])  # two centred means have one norm
        assert np.isfinite(derivatives["nc1"])

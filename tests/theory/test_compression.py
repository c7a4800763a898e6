from dataclasses import replace
from functools import partial

import pytest
import torch
from problems import batch_point, random_problem

import perturb_nc as pnc
from perturb_nc.theory.compression import compress, narrow, turned
from perturb_nc.theory.curvature import lowest_curvature


def statistics(seed=0, **shape):
    return random_problem(seed=seed, **shape).reduced.statistics


WIDE = {"dim": 70, "counts": (30, 50, 40)}  # where the batch is solved on a subspace


def test_what_a_subspace_neglects_is_measured(monkeypatch):
    reference = statistics(seed=3, **WIDE)
    row = torch.tensor([[0.05, 0.02, 0.1]], dtype=torch.float64)
    monkeypatch.setattr("perturb_nc.theory.compression._ROUNDS", 1)
    space = compress(reference, row)
    assert space.basis is not None
    torch.testing.assert_close(
        space.basis.mT @ space.basis,
        torch.eye(space.basis.shape[1], dtype=torch.float64),
        rtol=0,
        atol=1e-12,
    )
    settings = {"lambda_w": 0.05, "lambda_h": 0.02, "beta": 0.1}
    inner = pnc.minimize(pnc.NearCollapseProblem(space.statistics, **settings))
    point = pnc.NearCollapseProblem(space.statistics, **settings).at(inner.weight)
    full = pnc.NearCollapseProblem(reference, **settings).at(space.lifted(inner.weight))
    assert full.gradient_norm > 1e-9
    found = torch.hypot(point.gradient_norm, space.neglected(point))
    torch.testing.assert_close(found, full.gradient_norm, rtol=1e-6, atol=0)
    # ... and what is not good enough is finished in all dimensions.
    found = pnc.minimize_batch(reference, **{name: [v] for name, v in settings.items()})
    assert found.gradient_norm[0] <= 1e-10


def test_a_subspace_grows_where_the_features_ask_for_it():
    torch.manual_seed(0)
    spread = torch.arange(1, 161, dtype=torch.float64) ** -1.0  # a heavy tail, as in networks
    labels = torch.arange(600) % 3
    features = torch.randn(600, 160, dtype=torch.float64) * spread
    features[:, :3] += 2 * torch.eye(3, dtype=torch.float64)[labels]
    reference = pnc.ClassStatistics.from_features(features, labels)
    settings = {"lambda_w": [1e-4, 1e-2, 1e-1], "lambda_h": [1e-3] * 3, "beta": [1.0] * 3}
    found = pnc.minimize_batch(reference, **settings)
    sizes = [part.space.statistics.dim for part in found._parts]
    assert sizes == sorted(set(sizes))
    assert 33 < max(sizes) < 160  # it grew, and held all without all dimensions
    assert float(found.gradient_norm.max()) <= 1e-10
    for i in range(3):
        single = pnc.minimize(found.solution(i).problem)
        assert single.objective == pytest.approx(float(found.objective[i]), rel=1e-12)
        point = found.solution(i).problem.at(found.weight(i))
        assert float(point.gradient_norm) <= 1.01e-10


def test_all_dimensions_along_eigenvectors_neglect_nothing():
    reference = statistics(seed=3, **WIDE)
    space = turned(reference)
    weight = torch.randn(2, *reference.means.shape, dtype=torch.float64)
    row = torch.tensor([[0.05, 0.02, 0.1]] * 2, dtype=torch.float64)
    point = space.at(space.compressed(weight), row, bias=True)
    assert space.is_whole
    assert not space.neglected(point).any()
    torch.testing.assert_close(space.lifted(point.weight), weight)
    for i in range(2):
        problem = pnc.NearCollapseProblem(
            reference, lambda_w=0.05, lambda_h=0.02, beta=0.1, bias=True
        )
        expected = problem.at(weight[i])
        torch.testing.assert_close(point.objective[i], expected.objective, rtol=1e-12, atol=0)
        torch.testing.assert_close(
            space.lifted(point.gradient[i]), expected.gradient, rtol=0, atol=1e-13
        )


def test_a_space_for_one_setting_has_one_pole_and_holds_the_weight():
    reference = statistics(seed=3, **WIDE)
    row = torch.tensor([[0.05, 0.02, 5.0]], dtype=torch.float64)
    space = narrow(reference, row)
    assert len(space.roots) == 1
    assert space.basis.shape[1] == 7 * 3
    weight = pnc.minimize(
        pnc.NearCollapseProblem(reference, lambda_w=0.05, lambda_h=0.02, beta=5.0)
    ).weight
    left = weight - space.lifted(space.compressed(weight))
    assert left.norm() < 1e-6 * weight.norm()


def outside_curvature(point, variances):
    """Lowest curvature along u qᵀ for every variance s of features along q, outside of V."""
    c, ridge = point.c, point.ridge
    shrunk = (point.beta / c) ** 2 * variances[:, None, None]
    identity = torch.eye(point.weight.shape[-2], dtype=torch.float64)
    blocks = c * shrunk * point.gain - point.residual_moment / c + ridge * identity
    return torch.linalg.eigvalsh(blocks / (shrunk + ridge))[..., 0]


@pytest.mark.parametrize("lambda_w", [1e-4, 1e-2, 1.0])
def test_the_hessian_outside_a_subspace_in_closed_form(lambda_w):
    """Where Σ_W0 leaves V invariant nothing leaks, and the closed form is all there is."""
    k, d, inside = 3, 70, 20
    generator = torch.Generator().manual_seed(1)
    normal = partial(torch.randn, generator=generator, dtype=torch.float64)
    core, variances = normal(inside, inside), normal(d - inside).square()
    means = torch.nn.functional.pad(normal(k, inside), (0, d - inside))
    within = torch.block_diag(core @ core.mT / inside, variances.diag())
    own = pnc.ClassStatistics(
        torch.full((k,), 40), means, within, within.trace().expand(k).contiguous()
    )
    problem = pnc.NearCollapseProblem(own, lambda_w=lambda_w, lambda_h=0.02, beta=0.7)
    weight = torch.nn.functional.pad(normal(k, inside), (0, d - inside))
    weight = weight * problem.central_path_weight().norm() / weight.norm()
    whole = lowest_curvature(batch_point(problem, weight)).lowest.item()
    cut = pnc.ClassStatistics(
        own.counts, means[:, :inside], within[:inside, :inside].contiguous(), own.class_variance
    )
    point = batch_point(replace(problem, statistics=cut), weight[:, :inside])
    inner = lowest_curvature(point).lowest.item()
    outer = outside_curvature(point, variances)
    assert whole == pytest.approx(min(inner, outer.min().item()), rel=1e-3)
    if outer.min() < 0:
        assert outer.argmin() == variances.argmin()


def test_fewer_dimensions_than_classes_stay_as_they_are():
    reference = statistics(dim=3, counts=(9, 8, 7, 6))
    assert turned(reference).basis is None
    found = pnc.minimize_batch(reference, lambda_w=[0.05], lambda_h=[0.02], beta=[0.5])
    assert found.singular_values.shape == (1, 3)
    solution = found.solution(0)
    for name, value in solution.metrics.as_dict().items():
        assert found.metrics[name].item() == pytest.approx(value, rel=1e-7, nan_ok=True)

import dataclasses

import numpy as np
import pytest
import torch
from near_cross_entropy import near_collapse, remainders, slopes

from perturb_nc.theory.cross_entropy import vicinity
from perturb_nc.theory.cross_entropy.collapse import cross_entropy_spectrum
from perturb_nc.theory.cross_entropy.near import LayerChange, Pair, near_scalars, solve_near

FIELDS = (
    "size", "slope", "c0", "theta", "curvature.towards", "curvature.between", "kept.towards",
    "kept.between", "off_span", "odd", "even.towards", "even.between", "outside", "across", "bias",
    "anchor",
)  # fmt: skip


def bent(scalars, part):
    """Scalars with one of them 1 % larger."""
    name, _, side = part.partition(".")
    value = getattr(scalars, name)
    changed = value._replace(**{side: 1.01 * getattr(value, side)}) if side else 1.01 * value
    return dataclasses.replace(scalars, **{name: changed})


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("part", FIELDS)
def test_a_one_percent_mutation_of_any_scalar_is_seen(part, monkeypatch):
    steps = np.array([2e-5, 1e-5])
    assert slopes(remainders({}, steps), steps).min() > 1.95
    monkeypatch.setattr(vicinity, "near_scalars", lambda *a: bent(near_scalars(*a), part))
    assert slopes(remainders({}, steps), steps).min() < 1.6


@pytest.mark.parametrize("options", [{}, {"bias_decay": True}, {"bias": False}], ids=str)
@pytest.mark.parametrize("num_classes", [2, 3, 5])
def test_the_inverse_at_collapse_against_products_with_the_hessian(num_classes, options):
    problem = near_collapse(0.0, num_classes=num_classes, dim=6, **options)
    found = vicinity.cross_entropy_vicinity(problem)
    near, point, k = found._nearest, found._point, num_classes
    j = near.projector
    wide = torch.randn(k, point.weight.shape[2], dtype=torch.float64)
    wide[:, :6] = j @ wide[:, :6]
    if problem.bias:
        wide[:, -1] -= wide[:, -1].mean()
    product = k * point.hessian_vector_product(wide[None])[0]
    bias = product[:, -1] if problem.bias else torch.zeros(k, dtype=torch.float64)
    own = product[:, :6]
    back = solve_near(
        found._scalars, LayerChange(own @ near.simplex.mT, near.outside(own), bias), j
    )
    layer = back.inside @ near.simplex + back.outside
    torch.testing.assert_close(layer, wide[:, :6], rtol=0, atol=1e-9)
    if problem.bias:
        torch.testing.assert_close(back.bias, wide[:, -1], rtol=0, atol=1e-9)


def test_what_is_kept_are_eigenvalues_of_the_response():
    setting = {"lambda_w": 0.3, "lambda_h": 0.2, "beta": 0.7}
    strengths = torch.tensor(list(setting.values()), dtype=torch.float64)
    scalars = near_scalars(strengths, 4, 0.1, 0.0)
    spectrum = cross_entropy_spectrum(
        num_classes=4, dim=9, samples_per_class=5, label_smoothing=0.1, **setting
    )
    kept = [*scalars.kept, scalars.off_span]
    np.testing.assert_allclose(kept, spectrum.eigenvalues[:3], rtol=1e-14)


def test_a_pair_is_the_function_of_the_curvature_at_collapse():
    k, theta, other = 4, 0.6, 0.1
    j = torch.eye(k, dtype=torch.float64) - 1 / k
    values = torch.tensor([k * other * (other + theta), other], dtype=torch.float64)
    pair = Pair(*values)
    table = torch.randn(k, k, dtype=torch.float64) @ j
    for i, row in enumerate(pair(table, j)):
        p = other + theta * torch.eye(k, dtype=torch.float64)[i]
        torch.testing.assert_close(row, p * table[i] - p * (p @ table[i]))

from dataclasses import fields

import pytest
import torch
from deep_models import direct_objective

import perturb_nc as pnc
from perturb_nc.theory.deep.strongly_regular import disjoint_edges


def test_strongly_regular_solution_beats_collapse():
    arguments = {"num_layers": 4, "num_classes": 10, "samples_per_class": 1}
    found = pnc.deep.strongly_regular_solution(**arguments, lambdas=0.004, lambda_h=0.004)
    assert found.collapse == pytest.approx(0.099180, abs=5e-7)
    assert found.objective == pytest.approx(0.080911, abs=5e-7)
    assert found.rank == 5


RATIOS = {(3, 6): 1.056, (3, 10): 0.923, (4, 6): 0.963, (4, 10): 0.817, (4, 15): 0.783}


@pytest.mark.parametrize(("case", "ratio"), RATIOS.items())
def test_small_lambda_ratios(case, ratio):
    num_layers, k = case
    found = pnc.deep.strongly_regular_solution(
        num_layers=num_layers, num_classes=k, samples_per_class=2, lambdas=1e-7, lambda_h=1e-7
    )
    assert found.limit_ratio == pytest.approx(ratio, abs=5e-4)
    assert found.ratio == pytest.approx(found.limit_ratio, rel=1e-4)


@pytest.mark.parametrize(("num_layers", "k"), [(3, 6), (4, 10), (5, 15)])
def test_strongly_regular_parameters_attain_the_objective(num_layers, k):
    lambdas, lambda_h = [1e-3 * (layer + 1) for layer in range(num_layers)], 5e-4
    found = pnc.deep.strongly_regular_solution(
        num_layers=num_layers,
        num_classes=k,
        samples_per_class=2,
        lambdas=lambdas,
        lambda_h=lambda_h,
    )
    parameters = found.parameters([k + layer for layer in range(num_layers)])
    value = direct_objective(parameters, [2] * k, lambdas, lambda_h)
    assert value.item() == pytest.approx(found.objective, abs=1e-14)
    ranks = [int(torch.linalg.matrix_rank(w)) for w in parameters[1]]
    low = 3 if k == 6 else found.rank  # W_{L-1} of r = 4 does not see 1
    assert ranks == [found.rank] * (num_layers - 2) + [low, k]
    for layer in range(num_layers + 1):  # no scale of one factor can be bettered
        for factor in (0.99, 1.01):
            bent = [parameters[0], *parameters[1]]
            bent[layer] = factor * bent[layer]
            assert direct_objective((bent[0], bent[1:]), [2] * k, lambdas, lambda_h) > value + 1e-8


def test_disjoint_edges_have_the_spectrum_of_the_kneser_graph():
    values = torch.linalg.eigvalsh(disjoint_edges(6))
    expected = torch.tensor([-3.0] * 5 + [1.0] * 9 + [6.0], dtype=torch.float64)
    torch.testing.assert_close(values, expected)


def test_strong_regularisation_leaves_zero():
    found = pnc.deep.strongly_regular_solution(
        num_layers=4, num_classes=10, samples_per_class=1, lambdas=0.1, lambda_h=0.1
    )
    assert (found.objective, found.rank, found.scale) == (0.5, 0, 0.0)
    assert not any(w.any() for w in found.parameters([10] * 4)[1])
    assert {f.name for f in fields(found)} >= {"objective", "collapse", "limit_ratio"}

import pytest
import torch
from problems import CASES, random_problem

import perturb_nc as pnc

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
def test_central_path_weight_is_the_best_one(case):
    dense = random_problem(seed=3, **case)
    expected = dense.best_weight(dense.reference)
    found = dense.reduced.central_path_weight()
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)
    other = random_problem(seed=4, **case)
    statistics = other.reduced.statistics
    found = dense.reduced.central_path_weight(statistics)
    torch.testing.assert_close(found, other.best_weight(other.reference), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lambda_w": 0.0}, "lambda_w must be > 0, got 0.0"),
        ({"lambda_w": float("nan")}, "lambda_w must be finite, got nan"),
        ({"lambda_h": -1e-3}, "lambda_h must be >= 0, got -0.001"),
        ({"beta": -1.0}, "beta must be >= 0, got -1.0"),
        ({"beta": "strong"}, "beta must be a number, got 'strong'"),
        ({"beta": 0, "lambda_h": 0}, "lambda_h and beta must not both be 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_hyperparameters_are_named(change, message):
    statistics = random_problem(seed=0).reduced.statistics
    arguments = {"lambda_w": 0.1, "lambda_h": 0.1, "beta": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        pnc.NearCollapseProblem(statistics, **arguments)


def test_bad_weights_are_named():
    problem = random_problem(seed=0).reduced
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 12\), got \(4, 3\)"):
        problem.objective(torch.zeros(4, 3))
    with pytest.raises(ValueError, match="direction must be real and finite"):
        problem.hessian_vector_product(torch.zeros(4, 12), torch.full((4, 12), torch.nan))

import pytest
import torch
from problems import DenseProblem, random_problem

import perturb_nc as pnc
from perturb_nc.theory import isolated

SMALL = {"num_classes": 3, "dim": 5, "seed": 3}


@pytest.mark.usefixtures("unchecked")
def test_refuses_solutions_that_have_no_derivative():
    free = pnc.minimize(random_problem(**SMALL, beta=0.0).reduced)
    with pytest.raises(ValueError, match="beta of the solution"):
        pnc.hyperparameter_response(free)
    rough = pnc.minimize(random_problem(**SMALL, beta=0.01).reduced, max_steps=1)
    with pytest.raises(ValueError, match="must have converged; it stopped at max_steps"):
        pnc.hyperparameter_response(rough)
    rough = pnc.minimize(random_problem(**SMALL).reduced, tol=0.1)
    with pytest.raises(ValueError, match=r"must be stationary to 1e-06, got gradient_norm = "):
        pnc.hyperparameter_response(rough)


@pytest.mark.parametrize("iterative", [False, True])
def test_refuses_a_family_of_optima(iterative, monkeypatch):
    # No class means and isotropic deviations: every rotation of the optimum is one.
    if iterative:
        monkeypatch.setattr(isolated, "_DENSE_LIMIT", 0)
    reference = torch.cat([torch.eye(4), -torch.eye(4)] * 2).double()
    labels = torch.arange(2).repeat_interleave(8)
    dense = DenseProblem(reference.mT, labels, 1e-3, 0.05, 0.05)
    solution = pnc.minimize(dense.reduced)
    assert solution.weight.norm() > 0.1
    response = pnc.linear_response(solution, reference, labels)
    with pytest.raises(ValueError, match="solution must be an isolated optimum"):
        response.weight(torch.randn(16, 4))

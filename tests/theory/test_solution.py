import pytest
import torch
from problems import OPTIMA, DenseProblem, random_problem

import perturb_nc as pnc


@pytest.mark.parametrize("case", OPTIMA.values(), ids=OPTIMA)
def test_solution_is_the_objective_of_its_own_samples(case):
    dense = random_problem(seed=2, **case)
    solution = pnc.minimize(dense.reduced)
    features = solution.features(dense.reference.mT, dense.labels)
    bias = solution.bias if dense.bias else torch.zeros(dense.num_classes, dtype=torch.float64)
    value = dense.objective(solution.weight, features.mT, bias).item()
    assert solution.objective == pytest.approx(value, rel=1e-12)
    exact = pnc.ClassStatistics.from_features(features, dense.labels)
    close = {"rtol": 1e-10, "atol": 1e-11}
    torch.testing.assert_close(solution.statistics.means, exact.means, **close)
    torch.testing.assert_close(solution.statistics.within, exact.within, **close)
    s = solution.statistics
    torch.testing.assert_close(s.priors @ s.class_variance, s.within.trace(), **close)
    assert (solution.bias is None) == (not dense.bias)


def test_class_variances_are_exact_when_classes_share_a_shape():
    # The same deviations in every class, scaled: Σ_k proportional to one matrix.
    deviations = torch.randn(40, 12, dtype=torch.float64)
    deviations -= deviations.mean(0)
    scales = torch.tensor([0.5, 1.0, 2.0, 0.1], dtype=torch.float64)
    means = torch.randn(4, 12, dtype=torch.float64)
    features = torch.cat([m + s * deviations for m, s in zip(means, scales, strict=True)])
    labels = torch.arange(4).repeat_interleave(40)
    solution = pnc.minimize(DenseProblem(features.mT, labels, 0.05, 0.02, 0.5).reduced)
    exact = pnc.ClassStatistics.from_features(solution.features(features, labels), labels)
    torch.testing.assert_close(solution.statistics.class_variance, exact.class_variance)


def test_variances_stay_positive_where_the_weight_is_large():
    features = torch.zeros(6, 2, dtype=torch.float64)
    features[:, 1] = torch.tensor([0.35, 0.82, 0.33, -1.3, 0.91, 0.45])
    statistics = pnc.ClassStatistics.from_features(features, [0, 0, 1, 1, 2, 2])
    problem = pnc.NearCollapseProblem(statistics, lambda_w=1e-5, lambda_h=0.1, beta=0.005)
    solution = pnc.minimize(problem)
    assert solution.status is pnc.Status.CONVERGED
    assert solution.statistics.within.trace() > 0

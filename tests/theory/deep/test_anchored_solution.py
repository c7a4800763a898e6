import pytest
import torch
from deep_models import PARAMETERS, anchored

import perturb_nc as pnc


def test_one_layer_is_the_near_collapse_model():
    dense, problem = anchored(1)
    found = pnc.deep.minimize_anchored(problem)
    single = pnc.minimize(pnc.NearCollapseProblem(dense.reduced.statistics, **PARAMETERS))
    assert found.objective == pytest.approx(single.objective, abs=1e-14)
    torch.testing.assert_close(found.statistics.means, single.statistics.means)
    contraction = pnc.deep.anchored_contraction(num_layers=1, **PARAMETERS)
    spectrum = pnc.near_collapse_spectrum(num_classes=3, dim=5, samples_per_class=4, **PARAMETERS)
    assert min(abs(spectrum.eigenvalues - contraction)) < 1e-14

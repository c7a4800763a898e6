import numpy as np
import torch
from problems import statistics_of

import perturb_nc as pnc
from perturb_nc.metrics.within import within_spectrum
from perturb_nc.study import quantities as module
from perturb_nc.theory.collapse import simplex_etf


def test_quantities_do_not_see_a_rotation_or_a_gain(generic):
    features, labels, s = generic
    q = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64)).Q
    moved = pnc.ClassStatistics.from_features(3 * features @ q, labels)
    before, after = (module.quantities(pnc.collapse_metrics(x), module.BENCHED) for x in (s, moved))
    np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-12)


def test_spectra_are_cut_and_filled_to_one_length(generic):
    _, _, s = generic
    whole, inside = module.top_spectra(s)
    assert whole.shape == inside.shape == (module.EIGENVALUES,)
    np.testing.assert_allclose(whole[:9], within_spectrum(s))
    assert np.isfinite(inside[:4]).all()  # K - 1 directions
    assert np.isnan(inside[4:]).all()
    assert np.isnan(whole[9:]).all()
    wide = statistics_of(simplex_etf(3, 30), torch.diag(torch.arange(1.0, 31).double()))
    assert np.isfinite(module.top_spectra(wide)[0]).all()


def test_log_ratios_of_what_is_rounding_are_not_known():
    found = module.log_ratio([2.0, 1e-13, 1.0, np.nan], [1.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(found, [np.log(2), np.nan, np.nan, np.nan])

"""What predictions and measurements are compared in: metrics and the within-class spectrum."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perturb_nc.metrics.covariance import span_spectrum
from perturb_nc.metrics.table import CollapseMetrics
from perturb_nc.metrics.within import within_spectrum
from perturb_nc.statistics import ClassStatistics

QUANTITIES = (
    "nc1_trace",
    "nc1_span",
    "nc1",
    "cdnv",
    "nc2_etf",
    "nc2_equinorm",
    "nc2_equiangular",
    "within_share",
)
JUDGED = (*QUANTITIES, "top_eigenvalues")  # the last is of errors alone
BENCHED = (*QUANTITIES, "directional_cdnv", "discrimination")
_ZERO = 1e-12  # a metric below this is rounding
EIGENVALUES = 20  # largest ones of Σ_W / tr Σ_B that are kept


def quantities(metrics: CollapseMetrics, names: Sequence[str] = QUANTITIES) -> NDArray[np.float64]:
    """Those named; none changes with a rotation or a gain of the features."""
    return np.array([getattr(metrics, name) for name in names])


def top_spectra(statistics: ClassStatistics) -> NDArray[np.float64]:
    """The largest eigenvalues of Σ_W / tr Σ_B, then those in the span of the class means.

    Two rows of EIGENVALUES, NaN beyond d and beyond the K - 1 of the span.
    """
    both = within_spectrum(statistics), span_spectrum(statistics)
    found = np.full((2, EIGENVALUES), np.nan)
    for row, values in zip(found, both, strict=True):
        row[: len(values)] = values[:EIGENVALUES].cpu().numpy()
    return found


def log_ratio(predicted: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """log(predicted/measured), whose size is the error of a prediction; NaN where one is 0.

    As the angles between two classes are, to rounding.
    """
    above, below = np.asarray(predicted, float), np.asarray(measured, float)
    known = (above > _ZERO) & (below > _ZERO)
    ratio = np.where(known, above, np.nan) / np.where(known, below, np.nan)
    return np.asarray(np.log(ratio))

"""What predictions and measurements are compared in: metrics and the within-class spectrum."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perturb_nc.metrics import CollapseMetrics
from perturb_nc.statistics import ClassStatistics
from perturb_nc.within_metrics import within_spectrum

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
_ZERO = 1e-12  # a metric below this is rounding
EIGENVALUES = 20  # largest ones of Σ_W / tr Σ_B that are kept


def quantities(metrics: CollapseMetrics) -> NDArray[np.float64]:
    """Those named in QUANTITIES; none changes with a rotation or a gain of the features."""
    return np.array([getattr(metrics, name) for name in QUANTITIES])


def top_spectrum(statistics: ClassStatistics) -> NDArray[np.float64]:
    """The largest eigenvalues of Σ_W / tr Σ_B, NaN beyond d."""
    values = within_spectrum(statistics)[:EIGENVALUES].cpu().numpy()
    return np.pad(values, (0, EIGENVALUES - len(values)), constant_values=np.nan)


def log_ratio(predicted: ArrayLike, measured: ArrayLike) -> NDArray[np.float64]:
    """log(predicted/measured), whose size is the error of a prediction; NaN where one is 0.

    As the angles between two classes are, to rounding.
    """
    above, below = np.asarray(predicted, float), np.asarray(measured, float)
    known = (above > _ZERO) & (below > _ZERO)
    ratio = np.where(known, above, np.nan) / np.where(known, below, np.nan)
    return np.asarray(np.log(ratio))

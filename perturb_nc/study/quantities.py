"""What predictions and measurements are compared in: metrics and the within-class spectrum."""

import numpy as np
from numpy.typing import NDArray

from perturb_nc.metrics import collapse_metrics, within_spectrum
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
EIGENVALUES = 20  # largest ones of Σ_W / tr Σ_B that are kept


def quantities(statistics: ClassStatistics) -> NDArray[np.float64]:
    """The metrics named in QUANTITIES; none changes with a rotation or a gain of the features."""
    metrics = collapse_metrics(statistics)
    return np.array([getattr(metrics, name) for name in QUANTITIES])


def top_spectrum(statistics: ClassStatistics) -> NDArray[np.float64]:
    """The largest eigenvalues of Σ_W / tr Σ_B, NaN beyond d."""
    values = within_spectrum(statistics)[:EIGENVALUES].cpu().numpy()
    return np.pad(values, (0, EIGENVALUES - len(values)), constant_values=np.nan)

"""What predictions and measurements are compared in: metrics and the within-class spectrum."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from perturb_nc.metrics import CollapseMetrics, within_spectrum
from perturb_nc.statistics import ClassStatistics

LABELS = {  # name and meaning
    "nc1_trace": ("ÑC1", "tr Σ_W / tr Σ_B"),
    "nc1_span": ("ÑC1 in the span", "tr PΣ_W / tr Σ_B, P: span of class means"),
    "nc1": ("NC1", "tr(Σ_W Σ_B†) / K"),
    "cdnv": ("CDNV", "class-distance normalised variance"),
    "nc2_etf": ("NC2", "distance of class means to a simplex ETF"),
    "nc2_equinorm": ("NC2 norms", "spread of the norms of the class means over their mean"),
    "nc2_equiangular": ("NC2 angles", "mean of |cos + 1/(K-1)| over pairs of classes"),
    "within_share": ("within share", "tr Σ_W / (tr Σ_W + tr Σ_B)"),
    "top_eigenvalues": ("eigenvalues", "first five eigenvalues of Σ_W / tr Σ_B, median"),
}
QUANTITIES = tuple(LABELS)[:-1]  # the last is of errors alone
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

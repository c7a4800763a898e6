"""What predictions and measurements are compared in: metrics and the within-class spectrum."""

import numpy as np
from numpy.typing import NDArray

from perturb_nc.metrics import collapse_metrics, within_spectrum
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
EIGENVALUES = 20  # largest ones of Σ_W / tr Σ_B that are kept


def quantities(statistics: ClassStatistics) -> NDArray[np.float64]:
    """The metrics named in QUANTITIES; none changes with a rotation or a gain of the features."""
    metrics = collapse_metrics(statistics)
    return np.array([getattr(metrics, name) for name in QUANTITIES])


def top_spectrum(statistics: ClassStatistics) -> NDArray[np.float64]:
    """The largest eigenvalues of Σ_W / tr Σ_B, NaN beyond d."""
    values = within_spectrum(statistics)[:EIGENVALUES].cpu().numpy()
    return np.pad(values, (0, EIGENVALUES - len(values)), constant_values=np.nan)

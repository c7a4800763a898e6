# Every metric by name; perturb_nc itself lists the table of all, collapse_metrics.

from .covariance import held_out_nc1, span_spectrum, vci
from .duality import dnc3, nc3_alignment, nc3_duality, nc3_uniformity
from .frame import (
    discrimination,
    dnc2,
    hyperspherical_energy,
    nc2_angle_std,
    nc2_equiangular,
    nc2_equinorm,
    nc2_etf,
    nc2_of,
    nc2_uniformity,
)
from .kernel_alignment import linear_cka
from .ranks import FeatureRanks, feature_ranks
from .samples import (
    effective_depth,
    nc4_accuracy,
    nc4_vs_network,
    nc5,
    nearest_class_mean,
    stable_rank,
)
from .sampling import (
    DebiasedMetrics,
    debiased_distances,
    debiased_metrics,
    sampling_note,
    split_half_nc1,
)
from .table import Moments, collapse_depth, metric_tensors
from .within import (
    cdnv,
    directional_cdnv,
    nc1,
    nc1_parker,
    nc1_span,
    nc1_trace,
    within_share,
)

__all__ = [  # noqa: RUF022 - by purpose
    # of class statistics: variability, the frame of the means, the weight beside them
    "Moments",
    "nc1_trace",
    "nc1",
    "nc1_parker",
    "nc1_span",
    "cdnv",
    "directional_cdnv",
    "within_share",
    "nc2_etf",
    "nc2_of",
    "nc2_equinorm",
    "nc2_equiangular",
    "nc2_angle_std",
    "nc2_uniformity",
    "hyperspherical_energy",
    "discrimination",
    "dnc2",
    "nc3_duality",
    "nc3_uniformity",
    "nc3_alignment",
    "dnc3",
    "metric_tensors",
    "collapse_depth",
    # of a whole d×d matrix, of two sets of features, of two layers
    "FeatureRanks",
    "feature_ranks",
    "held_out_nc1",
    "linear_cka",
    "span_spectrum",
    "vci",
    # what a finite sample does to them
    "DebiasedMetrics",
    "debiased_distances",
    "debiased_metrics",
    "sampling_note",
    "split_half_nc1",
    # of the samples themselves
    "effective_depth",
    "nc4_accuracy",
    "nc4_vs_network",
    "nc5",
    "nearest_class_mean",
    "stable_rank",
]

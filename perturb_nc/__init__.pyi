# The public face, and the only list of it: each name is imported when it is first asked for.
# Types of results stand beside their verbs in the rooms' own faces (theory, study, measure).

from . import measure, metrics, networks, show, study, theory
from .layer_files import load_layers, load_metadata, load_samples, save_layers
from .layer_samples import LayerSamples
from .measure.extraction import collect_features, collect_statistics
from .measure.monitor import CollapseMonitor
from .measure.nearest_mean import nearest_mean_scores
from .metrics.table import CollapseMetrics, collapse_metrics
from .show.maps import plot_map
from .show.plots import plot_comparison, plot_layers, plot_path
from .show.report.page import write_report
from .show.spectra import plot_spectrum
from .show.vicinity import plot_vicinity
from .statistics import ClassStatistics, StatisticsBuilder
from .study.alignment import align
from .study.compare import compare_layers
from .study.comparison import error_table, load_comparison, save_comparison
from .study.depth import calibrate_depth
from .study.fit import fit_regularization
from .study.resampling import sampling_intervals
from .study.sweep import sweep
from .theory import deep
from .theory.batch import minimize_batch
from .theory.certificate import certify
from .theory.collapse import exact_collapse
from .theory.cross_entropy.problem import CrossEntropyProblem
from .theory.flow.cascade import cascade
from .theory.flow.central_path import central_path_flow
from .theory.flow.path import FlowPath
from .theory.hyperparameter_response import hyperparameter_response
from .theory.minimize import minimize
from .theory.problem import NearCollapseProblem
from .theory.response import linear_response
from .theory.solution import Solution
from .theory.spectrum import near_collapse_spectrum
from .theory.status import Status
from .theory.vicinity.batch import small_vicinity_batch
from .theory.vicinity.prediction import small_vicinity

__all__ = [  # noqa: RUF022 - by purpose
    # measure: from a model or arrays to class statistics and metrics
    "ClassStatistics",
    "CollapseMetrics",
    "CollapseMonitor",
    "LayerSamples",
    "StatisticsBuilder",
    "sampling_intervals",
    "collapse_metrics",
    "collect_features",
    "collect_statistics",
    "load_layers",
    "load_metadata",
    "load_samples",
    "nearest_mean_scores",
    "save_layers",
    # predict: from class statistics and regularisation to class statistics
    "CrossEntropyProblem",
    "FlowPath",
    "NearCollapseProblem",
    "Solution",
    "Status",
    "cascade",
    "central_path_flow",
    "certify",
    "exact_collapse",
    "hyperparameter_response",
    "linear_response",
    "minimize",
    "minimize_batch",
    "near_collapse_spectrum",
    "small_vicinity",
    "small_vicinity_batch",
    # compare: predictions beside measurements
    "align",
    "calibrate_depth",
    "compare_layers",
    "error_table",
    "fit_regularization",
    "load_comparison",
    "save_comparison",
    "sweep",
    "write_report",
    # draw: axes in, axes out
    "plot_comparison",
    "plot_layers",
    "plot_map",
    "plot_path",
    "plot_spectrum",
    "plot_vicinity",
    # the rooms: the deep unconstrained features model, our own laboratory; every metric by name; in
    # the others the types of results and lesser verbs
    "deep",
    "networks",
    "metrics",
    "measure",
    "theory",
    "study",
    "show",
]

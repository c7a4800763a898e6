"""Perturbation analysis of near neural collapse (Tirer, Huang & Niles-Weed 2023)."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from perturb_nc.layer_files import load_layers, load_metadata, save_layers
from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics, StatisticsBuilder
from perturb_nc.study.alignment import align
from perturb_nc.study.depth import DepthCalibration, calibrate_depth
from perturb_nc.study.fit import RegularizationFit, fit_regularization
from perturb_nc.theory.batch import SolutionBatch, minimize_batch
from perturb_nc.theory.certificate import Certificate, certify
from perturb_nc.theory.collapse import ExactCollapse, exact_collapse
from perturb_nc.theory.deep.anchored import (
    AnchoredDeepProblem,
    AnchoredSolution,
    anchored_contraction,
    minimize_anchored,
)
from perturb_nc.theory.deep.collapse import DeepCollapse, deep_collapse_optimum, deep_penalties
from perturb_nc.theory.deep.strongly_regular import StronglyRegular, strongly_regular_solution
from perturb_nc.theory.deep.training import DeepTraining, gradient_descent, lbfgs
from perturb_nc.theory.deep.ufm import DeepUFM
from perturb_nc.theory.flow.cascade import cascade, effective_complexity
from perturb_nc.theory.flow.central_path import central_path_flow, central_path_flows
from perturb_nc.theory.flow.path import FlowPath
from perturb_nc.theory.minimize import Solution, minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.response import (
    HyperparameterResponse,
    LinearResponse,
    hyperparameter_response,
    linear_response,
)
from perturb_nc.theory.spectrum import NearCollapseSpectrum, near_collapse_spectrum
from perturb_nc.theory.status import Status

if TYPE_CHECKING:
    from perturb_nc.show.report.page import write_report
    from perturb_nc.study.compare import compare_layers
    from perturb_nc.study.comparison import error_table, load_comparison, save_comparison
    from perturb_nc.study.resampling import bootstrap_intervals
    from perturb_nc.study.sweep import sweep

__all__ = [
    "AnchoredDeepProblem",
    "AnchoredSolution",
    "Certificate",
    "ClassStatistics",
    "CollapseMetrics",
    "DeepCollapse",
    "DeepTraining",
    "DeepUFM",
    "DepthCalibration",
    "ExactCollapse",
    "FlowPath",
    "HyperparameterResponse",
    "LinearResponse",
    "NearCollapseProblem",
    "NearCollapseSpectrum",
    "RegularizationFit",
    "Solution",
    "SolutionBatch",
    "StatisticsBuilder",
    "Status",
    "StronglyRegular",
    "align",
    "anchored_contraction",
    "bootstrap_intervals",
    "calibrate_depth",
    "cascade",
    "central_path_flow",
    "central_path_flows",
    "certify",
    "collapse_metrics",
    "compare_layers",
    "deep_collapse_optimum",
    "deep_penalties",
    "effective_complexity",
    "error_table",
    "exact_collapse",
    "fit_regularization",
    "gradient_descent",
    "hyperparameter_response",
    "lbfgs",
    "linear_response",
    "load_comparison",
    "load_layers",
    "load_metadata",
    "minimize",
    "minimize_anchored",
    "minimize_batch",
    "near_collapse_spectrum",
    "save_comparison",
    "save_layers",
    "strongly_regular_solution",
    "sweep",
    "write_report",
]


_LAZY = {  # xarray takes a third of a second to load, plotly more
    "bootstrap_intervals": "study.resampling",
    "compare_layers": "study.compare",
    "error_table": "study.comparison",
    "load_comparison": "study.comparison",
    "save_comparison": "study.comparison",
    "sweep": "study.sweep",
    "write_report": "show.report.page",
}


def __getattr__(name: str) -> Any:
    """The names that need xarray or plotly, when they are first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"perturb_nc.{_LAZY[name]}"), name)

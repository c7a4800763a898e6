"""Perturbation analysis of near neural collapse (Tirer, Huang & Niles-Weed 2023)."""

from perturb_nc.layer_files import load_layers, load_metadata, save_layers
from perturb_nc.metrics import CollapseMetrics, collapse_metrics
from perturb_nc.statistics import ClassStatistics, StatisticsBuilder
from perturb_nc.study.depth import DepthCalibration, calibrate_depth
from perturb_nc.study.sweep import sweep
from perturb_nc.theory.batch import SolutionBatch, minimize_batch
from perturb_nc.theory.certificate import Certificate, certify
from perturb_nc.theory.collapse import ExactCollapse, exact_collapse
from perturb_nc.theory.depth import cascade, effective_complexity
from perturb_nc.theory.flow import FlowPath, central_path_flow, central_path_flows
from perturb_nc.theory.minimize import Solution, Status, minimize
from perturb_nc.theory.problem import NearCollapseProblem
from perturb_nc.theory.response import (
    HyperparameterResponse,
    LinearResponse,
    hyperparameter_response,
    linear_response,
)
from perturb_nc.theory.spectrum import NearCollapseSpectrum, near_collapse_spectrum

__all__ = [
    "Certificate",
    "ClassStatistics",
    "CollapseMetrics",
    "DepthCalibration",
    "ExactCollapse",
    "FlowPath",
    "HyperparameterResponse",
    "LinearResponse",
    "NearCollapseProblem",
    "NearCollapseSpectrum",
    "Solution",
    "SolutionBatch",
    "StatisticsBuilder",
    "Status",
    "calibrate_depth",
    "cascade",
    "central_path_flow",
    "central_path_flows",
    "certify",
    "collapse_metrics",
    "effective_complexity",
    "exact_collapse",
    "hyperparameter_response",
    "linear_response",
    "load_layers",
    "load_metadata",
    "minimize",
    "minimize_batch",
    "near_collapse_spectrum",
    "save_layers",
    "sweep",
]

# What perturb_nc itself does not list: the types of results, and lesser verbs.

from . import deep
from .batch import SolutionBatch
from .certificate import Certificate
from .collapse import ExactCollapse, orthogonal_frame, simplex_etf
from .cross_entropy.collapse import (
    CrossEntropyCollapse,
    CrossEntropySpectrum,
    cross_entropy_collapse,
    cross_entropy_spectrum,
)
from .cross_entropy.minimize import CrossEntropySolution
from .cross_entropy.response import CrossEntropyResponse
from .flow.cascade import Cascade, effective_complexity
from .flow.central_path import central_path_flows
from .flow.integrators import Exponential, Scipy
from .flow.walk import FlowCost
from .lifted import LiftedOptimum, lifted_optimum
from .reduced import ReducedPoint
from .response import HyperparameterResponse, LinearResponse
from .spectrum import NearCollapseSpectrum
from .vicinity.prediction import SmallVicinity

__all__ = [
    "Cascade",
    "Certificate",
    "CrossEntropyCollapse",
    "CrossEntropyResponse",
    "CrossEntropySolution",
    "CrossEntropySpectrum",
    "ExactCollapse",
    "Exponential",
    "FlowCost",
    "HyperparameterResponse",
    "LiftedOptimum",
    "LinearResponse",
    "NearCollapseSpectrum",
    "ReducedPoint",
    "Scipy",
    "SmallVicinity",
    "SolutionBatch",
    "central_path_flows",
    "cross_entropy_collapse",
    "cross_entropy_spectrum",
    "deep",
    "effective_complexity",
    "lifted_optimum",
    "orthogonal_frame",
    "simplex_etf",
]

# What perturb_nc itself does not list: the types of results, and lesser verbs.

from . import deep
from .certificate import Certificate
from .collapse import ExactCollapse, orthogonal_frame, simplex_etf
from .cross_entropy.closure import ClosedFlow, cross_entropy_closure
from .cross_entropy.collapse import (
    CrossEntropyCollapse,
    CrossEntropySpectrum,
    cross_entropy_collapse,
    cross_entropy_spectrum,
)
from .cross_entropy.flow import CrossEntropyFlow, cross_entropy_flow
from .cross_entropy.minimize import CrossEntropySolution
from .cross_entropy.response import CrossEntropyResponse
from .cross_entropy.vicinity import CrossEntropyVicinity, cross_entropy_vicinity
from .flow.cascade import Cascade, effective_complexity
from .flow.central_path import central_path_flows
from .flow.chain import Chain, chain
from .flow.integrators import Exponential, Scipy
from .flow.walk import FlowCost
from .hyperparameter_response import HyperparameterResponse
from .lifted import LiftedOptimum, lifted_optimum
from .reduced import ReducedPoint
from .response import LinearResponse
from .solution_batch import SolutionBatch
from .spectrum import NearCollapseSpectrum
from .vicinity.batch import SmallVicinityBatch
from .vicinity.insights import (
    NoisyCollapse,
    collapse_under_noise,
    decay_effects,
    stronger_decay,
)
from .vicinity.prediction import SmallVicinity

__all__ = [
    "Cascade",
    "Certificate",
    "Chain",
    "ClosedFlow",
    "CrossEntropyCollapse",
    "CrossEntropyFlow",
    "CrossEntropyResponse",
    "CrossEntropySolution",
    "CrossEntropySpectrum",
    "CrossEntropyVicinity",
    "ExactCollapse",
    "Exponential",
    "FlowCost",
    "HyperparameterResponse",
    "LiftedOptimum",
    "LinearResponse",
    "NearCollapseSpectrum",
    "NoisyCollapse",
    "ReducedPoint",
    "Scipy",
    "SmallVicinity",
    "SmallVicinityBatch",
    "SolutionBatch",
    "central_path_flows",
    "chain",
    "collapse_under_noise",
    "cross_entropy_closure",
    "cross_entropy_collapse",
    "cross_entropy_flow",
    "cross_entropy_spectrum",
    "cross_entropy_vicinity",
    "decay_effects",
    "deep",
    "effective_complexity",
    "lifted_optimum",
    "orthogonal_frame",
    "simplex_etf",
    "stronger_decay",
]

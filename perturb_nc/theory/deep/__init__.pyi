from .anchored import AnchoredDeepProblem
from .anchored_solution import AnchoredSolution
from .batch import DeepTraining
from .collapse import DeepCollapse, DeepPenalties, deep_collapse_optimum, deep_penalties
from .contraction import anchored_contraction, measured_contraction
from .gradient_descent import gradient_descent
from .layer_collapse import LayerCollapse
from .lbfgs import lbfgs
from .minimize_anchored import minimize_anchored
from .strongly_regular import StronglyRegular, strongly_regular_solution
from .ufm import DeepUFM

__all__ = [
    "AnchoredDeepProblem",
    "AnchoredSolution",
    "DeepCollapse",
    "DeepPenalties",
    "DeepTraining",
    "DeepUFM",
    "LayerCollapse",
    "StronglyRegular",
    "anchored_contraction",
    "deep_collapse_optimum",
    "deep_penalties",
    "gradient_descent",
    "lbfgs",
    "measured_contraction",
    "minimize_anchored",
    "strongly_regular_solution",
]

# What perturb_nc itself does not list: the types of results, and lesser verbs.

from .alignment import procrustes_rotation
from .bench import bench_table, standings, theories_of_depth
from .comparison import bench_of, errors, with_bench
from .depth import DepthCalibration
from .explorer import Explorer, FirstAnswer, LayerView, Optimum
from .fit import RegularizationFit
from .laws import SeparationLaw, deep_linear_compression, separation_law
from .misfit import residual
from .predict import LayerPrediction, predict_layers
from .rivals import Prediction, Stage
from .straight_line import Straightness, all_pairs, straightness, straightness_of_means
from .sweep_store import open_sweep
from .theories import THEORIES, Theory
from .verdict import Failure, Standing, Verdict, verdicts

__all__ = [
    "THEORIES",
    "DepthCalibration",
    "Explorer",
    "Failure",
    "FirstAnswer",
    "LayerPrediction",
    "LayerView",
    "Optimum",
    "Prediction",
    "RegularizationFit",
    "SeparationLaw",
    "Stage",
    "Standing",
    "Straightness",
    "Theory",
    "Verdict",
    "all_pairs",
    "bench_of",
    "bench_table",
    "deep_linear_compression",
    "errors",
    "open_sweep",
    "predict_layers",
    "procrustes_rotation",
    "residual",
    "separation_law",
    "standings",
    "straightness",
    "straightness_of_means",
    "theories_of_depth",
    "verdicts",
    "with_bench",
]

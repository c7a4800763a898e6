# What perturb_nc itself does not list: the types of results, and lesser verbs.

from .alignment import procrustes_rotation
from .comparison import errors
from .depth import DepthCalibration
from .explorer import Explorer, LayerView, Optimum
from .fit import RegularizationFit
from .predict import LayerPrediction, NearPrediction, predict_layers, predict_near_collapse
from .rivals import Prediction, Stage
from .sweep_store import open_sweep

__all__ = [
    "DepthCalibration",
    "Explorer",
    "LayerPrediction",
    "LayerView",
    "NearPrediction",
    "Optimum",
    "Prediction",
    "RegularizationFit",
    "Stage",
    "errors",
    "open_sweep",
    "predict_layers",
    "predict_near_collapse",
    "procrustes_rotation",
]

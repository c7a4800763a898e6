# What perturb_nc itself does not list.

from .checkpoints import load_weights, measure_checkpoints
from .joint import JointStatistics, joint_statistics, load_joint, save_joint
from .monitor import ScalarWriter
from .nearest_mean import NearestMeanScores
from .reductions import random_projection
from .subsample import stratified

__all__ = [
    "JointStatistics",
    "NearestMeanScores",
    "ScalarWriter",
    "joint_statistics",
    "load_joint",
    "load_weights",
    "measure_checkpoints",
    "random_projection",
    "save_joint",
    "stratified",
]

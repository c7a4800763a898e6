# What perturb_nc itself does not list.

from .joint import JointStatistics, joint_statistics, load_joint, save_joint
from .monitor import ScalarWriter
from .nearest_mean import NearestMeanScores
from .reductions import random_projection

__all__ = [
    "JointStatistics",
    "NearestMeanScores",
    "ScalarWriter",
    "joint_statistics",
    "load_joint",
    "random_projection",
    "save_joint",
]

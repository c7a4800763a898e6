# What perturb_nc itself does not list.

from .extraction import NearestMeanScores
from .joint import JointStatistics, joint_statistics, load_joint, save_joint
from .monitor import ScalarWriter
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

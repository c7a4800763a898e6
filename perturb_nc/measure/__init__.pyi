# What perturb_nc itself does not list.

from .checkpoints import load_weights, measure_checkpoints
from .epoch_file import read_epochs
from .extraction import SpanStatistics
from .joint import JointStatistics, joint_statistics, load_joint, save_joint
from .monitor import ScalarWriter
from .nearest_mean import NearestMeanScores
from .reductions import random_projection
from .subsample import stratified, stratified_rows

__all__ = [
    "JointStatistics",
    "NearestMeanScores",
    "ScalarWriter",
    "SpanStatistics",
    "joint_statistics",
    "load_joint",
    "load_weights",
    "measure_checkpoints",
    "random_projection",
    "read_epochs",
    "save_joint",
    "stratified",
    "stratified_rows",
]

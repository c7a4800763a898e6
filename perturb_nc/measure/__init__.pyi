# What perturb_nc itself does not list.

from .extraction import NearestMeanScores
from .monitor import ScalarWriter
from .reductions import random_projection

__all__ = ["NearestMeanScores", "ScalarWriter", "random_projection"]

# What perturb_nc itself does not list: whole figures of maps, and of a bench.

from .bench import plot_bench
from .maps import plot_maps

__all__ = ["plot_bench", "plot_maps"]

# What perturb_nc itself does not list: a whole figure of maps.

from .maps import plot_maps

__all__ = ["plot_maps"]

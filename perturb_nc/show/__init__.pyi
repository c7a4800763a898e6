from .maps import plot_maps
from .plots import plot_depth, plot_flow, plot_layers

__all__ = ["plot_depth", "plot_flow", "plot_layers", "plot_maps"]

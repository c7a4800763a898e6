"""Perturbation analysis of near neural collapse."""

from perturb_nc.statistics import ClassStatistics, StatisticsBuilder, load_layers, save_layers

__all__ = ["ClassStatistics", "StatisticsBuilder", "load_layers", "save_layers"]

"""Networks, their data, and the measurement of their layers."""

from perturb_nc.networks.architectures import MLP, ResidualMLP
from perturb_nc.networks.data import Dataset, batches, load_dataset
from perturb_nc.networks.extraction import collect_statistics, random_projection
from perturb_nc.networks.training import EpochRecord, TrainingConfig, train

__all__ = [
    "MLP",
    "Dataset",
    "EpochRecord",
    "ResidualMLP",
    "TrainingConfig",
    "batches",
    "collect_statistics",
    "load_dataset",
    "random_projection",
    "train",
]

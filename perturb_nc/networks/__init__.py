"""Networks, their data, and the measurement of their layers."""

from perturb_nc.measure.dataset import Dataset, batches
from perturb_nc.measure.epoch_file import read_epochs
from perturb_nc.measure.extraction import (
    NearestMeanScores,
    collect_features,
    collect_statistics,
    nearest_mean_scores,
)
from perturb_nc.measure.monitor import CollapseMonitor
from perturb_nc.measure.reductions import random_projection
from perturb_nc.networks.architectures import MLP, ResidualMLP
from perturb_nc.networks.checkpoints import EpochRecord
from perturb_nc.networks.convolutional import VGG, ConvNet
from perturb_nc.networks.data import load_dataset
from perturb_nc.networks.ensemble import train_ensemble
from perturb_nc.networks.layerwise import train_layerwise
from perturb_nc.networks.resnet import ResNet
from perturb_nc.networks.training import TrainingConfig, train

__all__ = [
    "MLP",
    "VGG",
    "CollapseMonitor",
    "ConvNet",
    "Dataset",
    "EpochRecord",
    "NearestMeanScores",
    "ResNet",
    "ResidualMLP",
    "TrainingConfig",
    "batches",
    "collect_features",
    "collect_statistics",
    "load_dataset",
    "nearest_mean_scores",
    "random_projection",
    "read_epochs",
    "train",
    "train_ensemble",
    "train_layerwise",
]

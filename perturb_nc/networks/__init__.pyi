from .architectures import MLP, ResidualMLP
from .checkpoints import EpochRecord
from .convolutional import VGG, ConvNet
from .data import Dataset, batches, load_dataset
from .ensemble import train_ensemble
from .layerwise import train_layerwise
from .resnet import ResNet
from .training import TrainingConfig, train

__all__ = [
    "MLP",
    "VGG",
    "ConvNet",
    "Dataset",
    "EpochRecord",
    "ResNet",
    "ResidualMLP",
    "TrainingConfig",
    "batches",
    "load_dataset",
    "train",
    "train_ensemble",
    "train_layerwise",
]

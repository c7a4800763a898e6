"""What ships of the public networks: statistics of their blocks, and joint ones of stages' ends."""

from pathlib import Path

import torch
from torch import Tensor

import perturb_nc as pnc
from experiments import public_resnet
from experiments.command import RESULTS
from perturb_nc.measure import JointStatistics
from perturb_nc.storage import read_tensors

FOLDER = RESULTS / "public_networks"
BEFORE = "resnet18_cifar10"  # whose statistics, of all training images, `public_resnet` ships


def statistics_file(name: str, folder: Path = FOLDER) -> Path:
    """The shipped statistics of a network."""
    if name == BEFORE and folder == FOLDER:
        return public_resnet.FOLDER / "layers.safetensors"
    return folder / f"{name}.safetensors"


def blocks_of(name: str, folder: Path = FOLDER) -> dict[str, pnc.ClassStatistics]:
    """The shipped statistics of its stem and blocks."""
    layers = pnc.load_layers(statistics_file(name, folder))
    return {layer: s for layer, s in layers.items() if layer != "head"}


def joints(name: str, folder: Path = FOLDER) -> dict[tuple[str, str], JointStatistics]:
    """Joint statistics of the ends of every stage of a network, from its shipped files."""
    found: dict[tuple[str, str], JointStatistics] = {}
    path = folder / "cross" / f"{name}.safetensors"
    if not path.is_file():  # no two layers of one width
        return found
    layers = blocks_of(name, folder)
    for pair, cross in read_tensors(path)[0].items():
        first, last = pair.split("|")
        found[first, last] = JointStatistics(layers[first], layers[last], cross.double())
    return found


def recoloured(
    joint: JointStatistics, first: pnc.ClassStatistics, last: pnc.ClassStatistics
) -> Tensor:
    """The cross-covariance of few samples for layers whose Σ_W is known from more.

    ACBᵀ with A = Σ_W^½ Σ_W(few)^-½ of the first layer and B that of the last: what the samples
    have after linear maps that give them the Σ_W of all, so that the canonical correlations stay.
    """
    if joint.first.num_samples == first.num_samples:
        return joint.cross
    a, b = (
        _root(whole.within, 0.5) @ _root(few.within, -0.5)
        for few, whole in ((joint.first, first), (joint.last, last))
    )
    return a @ joint.cross @ b.mT


def _root(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix on its range."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > 1e-10 * values[-1]
    return (vectors[:, kept] * values[kept] ** power) @ vectors[:, kept].mT

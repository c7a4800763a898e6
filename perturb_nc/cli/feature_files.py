"""Files of features and labels, shards and folders of them, as the layers that they hold."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perturb_nc.cli.arguments import pick

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".npz", ".npy", ".pt", ".pth", ".safetensors")
_SHARD = re.compile(r"^(?P<name>.*?)[-_.]?(?P<number>\d+)-of-(?P<count>\d+)$")


@dataclass(frozen=True)
class Keys:
    """Names of the arrays in a file; `every` takes all but the labels as layers."""

    features: str
    labels: str
    every: bool = False


def layer_files(paths: Sequence[Path], *, exclude: Sequence[Path] = ()) -> dict[str, list[Path]]:
    """Name of a layer → the files of its samples, in order.

    A file is a layer of its name; NAME-00001-of-00004 and its like are the shards of layer NAME. A
    folder is its files, and each folder in it is a layer whose shards are the files there.

    Raises:
        FileNotFoundError, ValueError: a path that is not there, a folder without such files, a
            shard that is missing, or two layers of one name.
    """
    single: list[Path] = []
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            from perturb_nc.storage import existing

            single.append(existing(path))
            continue
        own, inner = _files(path, exclude), [p for p in _sorted(path) if p.is_dir()]
        if not own and not any(_files(p, exclude) for p in inner):
            raise ValueError(f"{path} holds no features; it must hold {', '.join(SUFFIXES)} files")
        single += own
        folders += [p for p in inner if _files(p, exclude)]
    found = _named(single)
    for folder in folders:
        if folder.name in found:
            raise ValueError(f"layer {folder.name!r} stands there twice, as {folder} too; rename")
        found[folder.name] = _files(folder, exclude)
    return found


def samples_of(
    files: Sequence[Path], keys: Keys, labels: "Tensor | None"
) -> "Iterator[dict[str, tuple[Tensor, Tensor]]]":
    """Of every file in turn: name of an array of features → it and the labels of its samples.

    The features have the name "" where the file holds one array of them under the name asked for.
    Where it holds none of that name, every array beside the labels is a layer.

    Args:
        labels: of all files, one after the other, where they are not in the files.

    Raises:
        ValueError: no labels, or not as many as samples.
    """
    from perturb_nc.storage import read_arrays

    start = 0
    for file in files:
        arrays = read_arrays(file)
        if labels is None:
            if list(arrays) == [""]:
                raise ValueError(
                    f"{file} holds one unnamed array, so labels are missing; give --labels FILE"
                )
            own = pick(arrays, keys.labels, file)
        x = _features(arrays, keys, file, own=labels is None)
        if labels is not None:
            count = max(next(iter(x.values())).shape[:1], default=0)
            own = labels[start : start + count]
            start += count
        yield {name: (values, own) for name, values in x.items()}
    if labels is not None and start != len(labels):
        raise ValueError(f"labels hold {len(labels)} samples, the features {start}")


def _features(
    arrays: "Mapping[str, Tensor]", keys: Keys, file: Path, *, own: bool
) -> "dict[str, Tensor]":
    """The layers in a file, whose labels are its own or another's."""
    rest = {name: x for name, x in arrays.items() if not own or name != keys.labels}
    if keys.every and rest:
        return rest
    named = keys.features in rest or keys.features != "features" or not rest
    if named or list(rest) == [""] or any(x.ndim < 2 for x in rest.values()):
        return {"": pick(arrays, keys.features, file)}  # or it says what there is
    return rest


def _named(files: Sequence[Path]) -> dict[str, list[Path]]:
    """Files by the layer that their names say; shards must be complete."""
    found: dict[str, list[Path]] = {}
    shards: dict[str, list[int]] = {}
    for file in files:
        shard = _SHARD.match(file.stem)
        name = shard["name"] if shard and shard["name"] else file.stem
        if name in found and not (shard and name in shards):
            raise ValueError(
                f"layer {name!r} stands there twice: {found[name][0]} and {file}; rename one"
            )
        found.setdefault(name, []).append(file)
        if shard and shard["name"]:
            shards.setdefault(name, [int(shard["count"])]).append(int(shard["number"]))
    for name, (count, *numbers) in shards.items():
        if sorted(numbers) not in (list(range(count)), list(range(1, count + 1))):
            raise ValueError(
                f"layer {name!r} has shards {sorted(numbers)} of {count}; give them all"
            )
    return found


def _files(folder: Path, exclude: Sequence[Path]) -> list[Path]:
    return [p for p in _sorted(folder) if p.suffix.lower() in SUFFIXES and p not in exclude]


def _sorted(folder: Path) -> list[Path]:
    """In the order of people: layer 2 before layer 10."""

    def key(path: Path) -> list[tuple[int, int, str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]

    return sorted(folder.iterdir(), key=key)

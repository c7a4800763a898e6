"""The image set in parts that can travel: `python -m experiments.accelerator.pack [--unpack]`.

Packing cuts the cache file of an image set (uint8, see `make data`) into parts of less than 60 MB,
with their digests beside; unpacking joins them in the cache of the machine that has them all, and
says which are missing until then.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from experiments.command import ROOT
from perturb_nc.networks.data import IMAGE_SETS, cache_dir
from perturb_nc.storage import replacing, write_json

FOLDER = ROOT / "build" / "parts"
BYTES = 55_000_000


def pack(source: Path, folder: Path, size: int = BYTES) -> list[Path]:
    """Cut a file into parts NAME.0, NAME.1, … and write NAME.json, their digests; all of them."""
    content = source.read_bytes()
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    paths = [folder / f"{source.name}.{i}" for i in range(len(pieces))]
    for path, piece in zip(paths, pieces, strict=True):
        with replacing(path) as temporary:
            temporary.write_bytes(piece)
    listed = folder / f"{source.name}.json"
    digests = [hashlib.sha256(piece).hexdigest() for piece in pieces]
    write_json(listed, dict(zip((path.name for path in paths), digests, strict=True)))
    return [*paths, listed]


def unpack(name: str, folder: Path, target: Path) -> list[str]:
    """Join the parts of NAME in `target`; if some are missing, their names, and nothing is done.

    Raises:
        FileNotFoundError: no NAME.json in the folder.
        ValueError: a part that is not as it was packed.
    """
    wanted = json.loads((folder / f"{name}.json").read_text(encoding="utf8"))
    missing = [part for part in wanted if not (folder / part).is_file()]
    if missing:
        return missing
    with replacing(target / name) as temporary, temporary.open("wb") as whole:
        for part, digest in wanted.items():
            content = (folder / part).read_bytes()
            if hashlib.sha256(content).hexdigest() != digest:
                raise ValueError(f"{folder / part} is not as it was packed; send it again")
            whole.write(content)
    return []


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.accelerator.pack", description=__doc__
    )
    parser.add_argument("--unpack", action="store_true", help="join the parts in the cache")
    parser.add_argument("--name", default="cifar10", choices=IMAGE_SETS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the parts")
    parser.add_argument("--bytes", type=int, default=BYTES, help="of a part at most")
    options = parser.parse_args(arguments)
    file = f"{options.name}.npz"
    if not options.unpack:
        for path in pack(cache_dir() / file, options.folder, options.bytes):
            print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
        return 0
    missing = unpack(file, options.folder, cache_dir())
    print(f"still missing: {', '.join(missing)}" if missing else f"joined {cache_dir() / file}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())

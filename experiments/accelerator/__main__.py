"""Run what waits for an accelerator: `python -m experiments.accelerator [--device cpu --tiny]`.

Pieces of minutes, the most valuable first. Each writes NAME.json, and small files of statistics
beside it, to one folder that is committed afterwards (experiments/results/accelerator). A call runs
the pieces that are not finished until its time is used up; the next call goes on.
docs/accelerator.md says how.
"""

import argparse
import platform
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.accelerator import check, timings
from experiments.accelerator.setting import OutOfTimeError, Piece, Setting
from experiments.accelerator.training import (
    SEEDS,
    decay_pieces,
    layerwise_pieces,
    pieces,
)
from experiments.command import QUICK, RESULTS, ROOT, uncommitted
from experiments.resume import is_finished, manifest
from perturb_nc.storage import write_json

FOLDER = RESULTS / "accelerator"
STATE = ROOT / "build" / "accelerator"  # not committed, kept between calls


@dataclass(frozen=True)
class Config:
    """What results are finished for."""

    tiny: bool = False


def all_pieces() -> list[Piece]:
    """In order of value: is it right, is it fast, the networks, then more seeds and settings."""
    first, *others = SEEDS
    return [
        Piece("check", check.make),
        Piece("timings", timings.make),
        *pieces(("resnet18", "equal-width"), (first,)),
        *layerwise_pieces((first,)),
        *pieces(("resnet18", "equal-width"), others),
        *pieces(("vgg16",), (first,)),
        *layerwise_pieces(others),
        *decay_pieces(SEEDS),
        *pieces(("vgg16",), others),
    ]


def rehearsed(piece: Piece) -> bool:
    """One of every kind is enough for a rehearsal."""
    kinds = ("check", "timings", "resnet18-mse-seed0", "equal-width-cross_entropy-seed0",
             "vgg16-mse-seed0", "layerwise-seed0", "decay-mse-features-0-seed0")  # fmt: skip
    return piece.name in kinds


def run(setting: Setting, chosen: list[Piece]) -> int:
    """Run the pieces that are not finished; 0 if all are, 3 if time ran out, 1 if one failed."""
    status, config = 0, Config(setting.tiny)
    for piece in chosen:
        path = setting.output / f"{piece.name}.json"
        if is_finished(path, config):
            continue
        start = time.perf_counter()
        try:
            setting.check_time()
            record = piece.make(setting, piece.name)
        except OutOfTimeError:
            print(f"time is up at {piece.name}; run the same command again", flush=True)
            return 3
        except Exception:  # one piece must not cost the others their turn
            traceback.print_exc()
            print(f"{piece.name}: failed", flush=True)
            status = 1
            continue
        spent = time.perf_counter() - start
        about = {"device": device_name(setting.device), "seconds": spent}
        write_json(path, {"manifest": manifest(config), **about, **record})
        print(f"{piece.name}: done in {spent:.0f} s", flush=True)
    return status


def device_name(device: torch.device) -> str:
    """What the pieces ran on."""
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{device.type}: {platform.machine()}"


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.accelerator", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="PIECE", help="pieces, instead of all")
    parser.add_argument("--list", action="store_true", help="name the pieces in order")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a rehearsal; writes to build/quick")
    parser.add_argument("--seconds", type=float, default=480.0, help="of this call")
    parser.add_argument("--output", type=Path, help=f"default: {FOLDER.relative_to(ROOT)}")
    parser.add_argument("--state", type=Path, default=STATE, help="folder of checkpoints")
    options = parser.parse_args(arguments)
    known = {piece.name: piece for piece in all_pieces() if not options.tiny or rehearsed(piece)}
    if options.list:
        print("\n".join(known))
        return 0
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"no piece {unknown[0]!r}; --list names them")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; rehearse with --device cpu --tiny")
    output = options.output or (QUICK / "accelerator" if options.tiny else FOLDER)
    if output.resolve().is_relative_to(RESULTS) and (changes := uncommitted()):
        parser.error(f"results that are committed need committed code, and {changes} differ")
    device = torch.device(options.device)
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    deadline = time.monotonic() + options.seconds
    state = options.state / ("tiny" if options.tiny else "runs")  # never the folder of the results
    for folder in (output, state):
        folder.mkdir(parents=True, exist_ok=True)
    setting = Setting(device, options.tiny, output, state, deadline)
    return run(setting, [known[name] for name in options.names or known])


if __name__ == "__main__":
    sys.exit(main())

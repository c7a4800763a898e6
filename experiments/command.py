"""The command line that all experiments share."""

import argparse
import subprocess
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
QUICK = ROOT / "build" / "quick"
SHIPPED = (  # class statistics of trained networks, under RESULTS
    "depth_calibration/*.safetensors",
    "equal_width/*.safetensors",
    "every_layer/*.safetensors",
    "public_resnet/layers.safetensors",
    "depthwise_layerwise/*.safetensors",
    "feature_learning/*.safetensors",
)


def options(doc: str, output: Path, quick: str, full: str | None = None) -> argparse.Namespace:
    """--quick, --full, --output and --device, and the settings of torch that go with them.

    Quick runs write to build/quick, others to `output`, whose results are committed: there the
    code that makes them must be committed first.

    Args:
        doc: of the experiment.
        output: file or folder under experiments/results.
        quick, full: what is smaller, or larger, with --quick or --full.
    """
    parser = argparse.ArgumentParser(description=doc)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help=f"{quick}; writes to build/quick")
    if full is not None:
        size.add_argument("--full", action="store_true", help=full)
    parser.add_argument("--output", type=Path, help="default: under experiments/results")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cuda where there is one")
    chosen = parser.parse_args()
    if chosen.output is None:
        chosen.output = QUICK / output.name if chosen.quick else output
    if chosen.output.resolve().is_relative_to(RESULTS) and (changes := uncommitted()):
        parser.error(
            f"results that are committed need committed code, and {', '.join(changes)} differ; "
            "commit them first, or give --output"
        )
    torch.set_num_threads(1)  # on a busy machine two threads can be slower than one
    return chosen


def uncommitted() -> list[str]:
    """Files of the package and of the experiments that differ from the commit; results may."""
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--", "perturb_nc", "experiments"]
    command.append(":!experiments/results")
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line[3:] for line in found.splitlines()]

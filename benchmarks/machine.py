"""What a benchmark ran on, and the command line that all of them have."""

import argparse
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import scipy
import torch

from perturb_nc.storage import replacing, write_json

RESULTS = Path(__file__).parent / "results"
QUICK = Path(__file__).parent.parent / "build" / "quick"  # not committed
Result = dict[str, Any]


def machine() -> dict[str, Any]:
    """CPU, what else it is doing (the load of the last minute), threads and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else -1.0,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scipy": scipy.__version__,
    }


def command_line(
    name: str, about: str, run: Callable[[bool], Result], as_markdown: Callable[[Result], str]
) -> None:
    """Parse --quick and --output, run(quick), write NAME.json and NAME.md, print the tables."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes to build/quick")
    parser.add_argument("--output", type=Path, help="folder to write to; default: with the others")
    arguments = parser.parse_args()
    output = arguments.output or (QUICK if arguments.quick else RESULTS)
    result = run(arguments.quick)
    write_json(output / f"{name}.json", result)
    text = as_markdown(result)
    with replacing(output / f"{name}.md") as path:
        path.write_text(text, encoding="utf8")
    print(text)

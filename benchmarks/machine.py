"""What a benchmark ran on."""

import platform
from pathlib import Path
from typing import Any

import scipy
import torch


def machine() -> dict[str, Any]:
    """CPU, threads and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf8").splitlines() if info.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scipy": scipy.__version__,
    }

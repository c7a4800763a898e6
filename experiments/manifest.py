"""What made a result: its configuration, versions, commit and machine; and what of it is there."""

import json
import platform
import subprocess
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from perturb_nc.storage import json_text

RESULTS = Path(__file__).parent / "results"


def manifest(config: Any) -> dict[str, Any]:
    """A record to store beside a result; config is the experiment's frozen dataclass."""
    spec = sys.modules["__main__"].__spec__
    git = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "config": asdict(config),
        "command": " ".join(["python -m", spec.name if spec else "?", *sys.argv[1:]]),
        "commit": commit or "unknown",
        "versions": {name: version(name) for name in ("perturb-nc", "torch", "numpy")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def finished_parts(path: Path, config: Any) -> dict[str, Any]:
    """The "parts" of a result at `path` made with this very config; {} otherwise."""
    if not path.is_file():
        return {}
    result = json.loads(path.read_text(encoding="utf8"))
    same = result["manifest"]["config"] == json.loads(json_text(asdict(config)))
    return result["parts"] if same else {}

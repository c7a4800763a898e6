"""What made a result, and what of it is finished: one rule.

A result, a part or a run is finished if it was made with the same configuration and the same
version of the package, and is as it was written. Something else in its place is refused by name.
"""

import hashlib
import json
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from experiments.command import ROOT, uncommitted
from perturb_nc.storage import json_text, write_json


def manifest(config: Any) -> dict[str, Any]:
    """A record to store beside a result; config is the experiment's frozen dataclass."""
    spec = sys.modules["__main__"].__spec__
    git = ["git", "-C", str(ROOT), "describe", "--always"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "config": asdict(config),
        "command": " ".join(["python -m", spec.name if spec else "?", *_said(sys.argv[1:])]),
        "commit": (commit or "unknown") + ("-dirty" if uncommitted() else ""),
        "versions": {name: version(name) for name in ("perturb-nc", "torch", "numpy")},
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def is_finished(path: Path, config: Any) -> bool:
    """Whether the result at `path` is there; nothing is to be done then, and that is said.

    Raises:
        ValueError: the result of another configuration or version.
    """
    if not path.is_file():
        return False
    _check(path, json.loads(path.read_text(encoding="utf8"))["manifest"], config)
    print(f"{path} is finished; delete it to make it again")
    return True


def finished_parts(path: Path, config: Any) -> dict[str, Any]:
    """The "parts" of the result at `path`, {} where it is not there; errors as `is_finished`."""
    if not path.is_file():
        return {}
    result = json.loads(path.read_text(encoding="utf8"))
    _check(path, result["manifest"], config)
    return result["parts"]


def runs_folder(output: Path, config: Any) -> Path:
    """The folder of the finished runs of a configuration, for `kept`; errors as `is_finished`."""
    path = output / "runs" / "config.json"
    if path.is_file():
        _check(path.parent, json.loads(path.read_text(encoding="utf8")), config)
    else:
        write_json(path, manifest(config))
    return path.parent


def kept(path: Path, make: Callable[[Path], Any]) -> Any:
    """The record in a JSON file; made by `make(path)` and written first if it is not there.

    Raises:
        ValueError: the file is not as it was written.
    """
    if not path.is_file():
        record = make(path)
        write_json(path, {"sha256": _digest(record), "record": record})
        for suffix in (".pt", ".jsonl"):
            path.with_suffix(suffix).unlink(missing_ok=True)
        print(f"{path.stem}: done", flush=True)
    found = json.loads(path.read_text(encoding="utf8"))
    if found.get("sha256") != _digest(found.get("record")):
        raise ValueError(f"{path} is not as it was written; delete it to make it again")
    return found["record"]


def _check(path: Path, found: dict[str, Any], config: Any) -> None:
    wanted = json.loads(json_text(asdict(config)))
    theirs = found["config"]
    differing = [
        name for name in theirs if name not in wanted or not _as_then(theirs[name], wanted[name])
    ]
    if found["versions"]["perturb-nc"] != version("perturb-nc"):
        differing.append("version of perturb-nc")
    if differing:
        raise ValueError(
            f"{path} was made with other {', '.join(differing)}; delete it to make it again, or "
            "give another --output"
        )


def _said(arguments: list[str]) -> list[str]:
    """Without the folder of the output, which says nothing of what was computed."""
    pairs = zip(["", *arguments], arguments, strict=False)
    return [a for before, a in pairs if "--output" not in (a, before)]


def _as_then(theirs: Any, wanted: Any) -> bool:
    """Equal but for fields added since then, which do by default what was done before."""
    if isinstance(theirs, dict) and isinstance(wanted, dict):
        return all(k in wanted and _as_then(v, wanted[k]) for k, v in theirs.items())
    return theirs == wanted


def _digest(record: Any) -> str:
    return hashlib.sha256(json.dumps(json.loads(json_text(record))).encode()).hexdigest()

"""Temporary files and folders beside their place, and what kills leave of them."""

import hashlib
import os
import platform
import re
import shutil
import time
from functools import cache
from pathlib import Path
from uuid import uuid4

import psutil

_NAME = re.compile(r"\.perturb-nc-([0-9a-f]{8})-(\d+)-[0-9a-f]{12}(\..*)?")
_DAY = 86400.0


def temporary_name(suffix: str = "") -> str:
    """A hidden name that says which process of which machine made it; short, whatever it is for."""
    return f".perturb-nc-{_machine()}-{os.getpid()}-{uuid4().hex[:12]}{suffix}"


@cache
def remove_leftovers(folder: Path) -> None:
    """Remove what processes that are gone left in a folder; once a process looks, at its start.

    Those of other machines that share the folder are left alone for a day.
    """
    for path in folder.iterdir():
        found = _NAME.fullmatch(path.name)
        if found is None:
            continue
        machine, process, _ = found.groups()
        gone = machine == _machine() and not psutil.pid_exists(int(process))
        try:
            if gone or time.time() - path.lstat().st_mtime > _DAY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        except OSError:  # another process was faster, or may what this one may not
            continue


@cache
def _machine() -> str:
    return hashlib.sha256(platform.node().encode()).hexdigest()[:8]

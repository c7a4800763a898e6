"""A disk that is really full: one line, nothing half-written, nothing lost."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import bad_files
import pytest

import perturb_nc as pnc

ROOT = Path(pnc.__file__).parent.parent


def may_mount():
    """Whether this user may have a mount that nobody else sees; why not."""
    if shutil.which("unshare") is None:
        return "needs unshare"
    command = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /mnt"]
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"may not mount: {tried.stderr.strip()}"


def test_full_disks(tmp_path, ledger):
    if reason := may_mount():
        pytest.skip(reason)
    layers = bad_files.write_layers(tmp_path / "layers.safetensors")
    features = bad_files.write_features(tmp_path / "x.npz")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = Path(__file__).with_name("full_disk.py")
    command = ["unshare", "-m", sys.executable, script, disk, layers, features]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False, timeout=600
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    for how, count in found["ended"].items():
        ledger.ends(how, count)
    for fault in found["faults"]:
        kind, text = fault.split(": ", 1)
        ledger.falls_by(kind, text)
    assert ledger.ended["one line"] >= 15  # else it was not full
    assert ledger.ended["one warning"] >= 10

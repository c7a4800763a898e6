"""The endurance run: its seed, and a ledger of what was tried, how it ended and what fell."""

import json
import os
import platform
import secrets
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("ENDURANCE_FOLDER", ROOT / "build" / "endurance"))
# Also of the processes of pytest-xdist, which inherit it.
SEED = int(os.environ.setdefault("ENDURANCE_SEED", str(secrets.randbelow(10**6))))
FALLS = ("tracebacks", "silent changes", "orphans", "lost rows")


def pytest_report_header():
    return f"endurance: seed {SEED} (set ENDURANCE_SEED to repeat)"


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


class Ledger:
    """Counts attempts by how they ended; what fell is a fault of the software."""

    def __init__(self, name):
        self.name, self.ended, self.falls, self.faults = name, Counter(), Counter(), []
        self.start = time.monotonic()
        self.seed = SEED

    def ends(self, how, count=1):
        self.ended[how] += count

    def falls_by(self, kind, fault):
        assert kind in FALLS
        self.falls[kind] += 1
        self.faults.append(f"{kind}: {fault}")

    def record(self):
        return {
            "attempts": sum(self.ended.values()) + sum(self.falls.values()),
            "ended": dict(sorted(self.ended.items())),
            "falls": {kind: self.falls[kind] for kind in FALLS},
            "seconds": round(time.monotonic() - self.start, 1),
        }


@pytest.fixture
def ledger(request):
    """The ledger of one test, written whatever happens; a fall is a failure."""
    kept = Ledger(request.node.name.removeprefix("test_").replace("_", " "))
    yield kept
    FOLDER.mkdir(parents=True, exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in kept.name)
    part = {"name": kept.name, **kept.record(), "faults": kept.faults[:20]}
    (FOLDER / f"{name}.part.json").write_text(json.dumps(part, ensure_ascii=True), "utf8")
    assert not kept.faults, "\n".join([f"seed {SEED}, {len(kept.faults)} faults", *kept.faults[:9]])


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        for part in FOLDER.glob("*.part.json"):
            part.unlink()
        session.config.endurance_start = time.monotonic()


def pytest_terminal_summary(terminalreporter, config):
    parts = [json.loads(path.read_text("utf8")) for path in sorted(FOLDER.glob("*.part.json"))]
    if not parts:
        return
    seconds = time.monotonic() - config.endurance_start
    result = {
        "seed": SEED,
        "seconds": round(seconds),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "system": platform.system(),
        "parts": {part.pop("name"): part for part in parts},
    }
    (FOLDER / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf8")
    terminalreporter.section(f"endurance, seed {SEED}")
    for name, part in result["parts"].items():
        ended = ", ".join(f"{count} {how}" for how, count in part["ended"].items())
        fell = sum(part["falls"].values())
        terminalreporter.line(f"{name}: {part['attempts']} attempts, {fell} fell ({ended})")

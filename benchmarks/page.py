"""Every benchmark, and one page of them: `python -m benchmarks.page [--quick] [--only NAME ...]`.

A benchmark that cannot run is named on the page with its reason, and the others go on.
"""

import argparse
import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import QUICK, RESULTS
from perturb_nc.storage import replacing

NAMES = (
    "floor",
    "flow",
    "optimum",
    "cross_entropy",
    "deep_ufm",
    "extraction",
    "explore",
    "many_classes",
)
TABLES = ("floor", "many_classes")  # without peers: their own on the page
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
_LIMIT = 3600.0  # seconds for one of them


def run(name: str, quick: bool) -> str | None:
    """Run a benchmark in a process of its own; why it could not, or None."""
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=False)
    except subprocess.TimeoutExpired:
        return f"took more than {_LIMIT:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"ended with exit status {done.returncode}"


def as_markdown(folder: Path, reasons: dict[str, str]) -> str:
    """The page, from the results in a folder."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench` (`python -m benchmarks.page`). Peers: the ratio is their time "
        "over ours in one run. Floor: operations counted, at the speed of a matrix product "
        "measured in the same run.",
    ]
    for name in TABLES:
        result = _read(folder, name)
        if result is not None:
            table = import_module(f"benchmarks.{name}").as_markdown(result)
            lines += ["", f"#{table.strip()}"]
    lines += ["", "## Ours and peers", ""]
    lines += [
        "| benchmark | case | ours, s | peer | × ours | machine |",
        "|---|---|---|---|---|---|",
    ]
    for name in NAMES:
        result = _read(folder, name)
        for case, ours, peer, ratio in compared(result or {}):
            ran_on = result["machine"]
            where = f"{ran_on['cpu']}, {ran_on['threads']} threads, {_load(ran_on)}"
            lines.append(f"| {name} | {case} | {ours:.3g} | {peer} | {ratio:.3g} | {where} |")
    for name in NAMES:
        if name in reasons:
            lines += ["", f"`benchmarks.{name}` did not run: {reasons[name]}"]
        elif _read(folder, name) is None:
            lines += ["", f"`benchmarks.{name}` has not been run."]
    return "\n".join(lines) + "\n"


def compared(result: dict[str, Any]) -> list[tuple[str, float, str, float]]:
    """(case, our seconds, the fastest peer, its time over ours) of a result."""
    found = []
    for case in result.get("cases", []):
        name = f"{case.get('case', '')} {_sizes(case)}".strip()
        if "methods" in case:
            ours, *others = case["methods"]
            apart = [m for m in others if not m["method"].startswith(ours["method"])]
            peers = [m for m in apart if m.get("ratio")]
            if peers:
                best = min(peers, key=lambda m: m["ratio"])
                found.append((name, ours["seconds"], best["method"], best["ratio"]))
        elif "lbfgs" in case:
            peer = "L-BFGS-B" if case["lbfgs"]["arrived"] else "L-BFGS-B, which stalls there"
            ratio = case["lbfgs"]["seconds"] / case["seconds"]
            found.append((name, case["seconds"], peer, ratio))
        elif "drag" in case:
            median = case["drag"]["median"] / 1e3
            again = case["scratch"] / case["drag"]["median"]
            found.append((f"{name}, a move", median, "computed from scratch", again))
    for b in result.get("batches", []):
        ratio = b["seconds_per_single"] / b["seconds_per_setting"]
        case = f"{b['kind']}, a setting of {b['settings']:,}"
        found.append((case, b["seconds_per_setting"], "minimize, one by one", ratio))
    for n in result.get("networks", []):
        ratio = n["forward_seconds"] / n["seconds"]
        found.append((_network(n), n["seconds"], "a forward pass alone", ratio))
    if "methods" in result:
        first, *_, last = sorted(result["methods"], key=lambda m: m["seconds_per_run_step"])
        ratio = last["seconds_per_run_step"] / first["seconds_per_run_step"]
        case = f"a step of a run, {first['method']}"
        found.append((case, first["seconds_per_run_step"], last["method"], ratio))
    return found


def _network(row: dict[str, Any]) -> str:
    return f"all layers of ResNet-18 N = {row['num_samples']:,}, K = {row['num_classes']}"


def _sizes(case: dict[str, Any]) -> str:
    sizes = {"N": case.get("num_samples", case.get("samples")), "d": case.get("dim")}
    return ", ".join(f"{n} = {v:,}" for n, v in sizes.items() if isinstance(v, int))


def _load(ran_on: dict[str, Any]) -> str:
    return f"load {ran_on['load']:.1f}" if "load" in ran_on else "load not recorded"


def _read(folder: Path, name: str) -> Any:
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf8")) if path.is_file() else None


def main() -> None:
    """Run what is asked for, and write the page."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes; writes to build/quick")
    parser.add_argument("--only", nargs="*", choices=NAMES, default=NAMES, help="which; none: page")
    arguments = parser.parse_args()
    reasons = {name: run(name, arguments.quick) for name in arguments.only}
    failed = {name: reason for name, reason in reasons.items() if reason is not None}
    folder = QUICK if arguments.quick else RESULTS
    with replacing(QUICK / "benchmarks.md" if arguments.quick else PAGE) as path:
        path.write_text(as_markdown(folder, failed), encoding="utf8")
    for name, reason in failed.items():
        print(f"{name}: {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()

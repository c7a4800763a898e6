"""Whether figures and tables show the same digits as they did at another commit.

    python docs/digits.py COMMIT

A figure is what stands in its axes, in data coordinates, when its script draws it from the
committed results; a table is its rows as text: on pages, in README.md and beside results. Both
checkouts are written as text to build/digits, and the lines that differ are printed.
"""

import argparse
import difflib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
DIGITS = 12  # the last ones of a float64 may depend on the machine
MOST = 20  # differing lines to print of a figure or page


def texts(root: Path) -> Iterator[tuple[str, str]]:
    """Every figure of a checkout, and the tables of every page that has one."""
    folder = root / "paper_figs"
    sys.path.insert(0, str(folder))
    for script in sorted(folder.glob("*.py")):
        if script.stem != "style":
            module = runpy.run_path(str(script))
            result = json.loads(module["RESULT"].read_text(encoding="utf8"))
            yield f"paper_figs/{script.stem}", drawn(module["draw"](result))
    pages = [root / "README.md", *(root / "docs").rglob("*.md")]
    for page in sorted([*pages, *(root / "experiments").rglob("*.md")]):
        rows = re.findall(r"^\|.*$", page.read_text(encoding="utf8"), re.MULTILINE)
        if rows:
            name = page.relative_to(root).with_suffix("")
            yield name.as_posix(), "\n".join(rows) + "\n"


def drawn(figure: Figure) -> str:
    """Words and numbers in the axes of a figure, panel by panel."""
    return "".join(f"panel {i}\n{_panel(axis)}" for i, axis in enumerate(figure.axes))


def _panel(axis: Axes) -> str:
    words = [axis.get_title(), axis.get_xlabel(), axis.get_ylabel()]
    rows = [json.dumps([*words, *(t.get_text() for t in axis.texts)], ensure_ascii=False)]
    rows += [_numbers("scale", [axis.get_xlim(), axis.get_ylim()]) + f" {axis.get_xscale()}"]
    rows += [_numbers("text", text.get_position()) for text in axis.texts]
    rows += [_numbers("line", line.get_xydata()) for line in axis.lines]
    for patch in axis.patches:  # a bar's path is the unit square
        vertices = patch.get_patch_transform().transform(patch.get_path().vertices)
        rows.append(_numbers("patch", vertices))
    rows += [_numbers("image", image.get_array()) for image in axis.images]
    for collection in axis.collections:
        rows.append(_numbers("points", collection.get_offsets()))
        rows += [_numbers("path", path.vertices) for path in collection.get_paths()]
        if collection.get_array() is not None:
            rows.append(_numbers("values", collection.get_array()))
    return "\n".join(rows) + "\n"


def _numbers(kind: str, values: Any) -> str:
    flat = np.ma.filled(np.ma.asarray(values, dtype=float), np.nan).ravel()
    return " ".join([kind, *(f"{value:.{DIGITS}g}" for value in flat)])


def differences(old: Path, new: Path) -> dict[str, list[str]]:
    """Lines that differ between two folders of texts, of every file of either."""
    names = {p.relative_to(f).as_posix() for f in (old, new) for p in f.rglob("*.txt")}
    found = {}
    for name in sorted(names):
        before, after = (
            path.read_text(encoding="utf8").splitlines() if path.is_file() else []
            for path in (old / name, new / name)
        )
        lines = difflib.unified_diff(before, after, n=0, lineterm="")
        found[name] = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
    return found


def main() -> int:
    """Write what this checkout shows; compare it with what a commit showed."""
    parser = argparse.ArgumentParser(description="Digits of figures and tables, then and now.")
    parser.add_argument("commit", nargs="?", help="to compare with; default: none")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to look at")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "digits" / "now")
    chosen = parser.parse_args()
    shutil.rmtree(chosen.output, ignore_errors=True)
    for name, text in texts(chosen.root):
        path = chosen.output / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")
    if chosen.commit is None:
        return 0
    then = chosen.output.with_name("then")
    with tempfile.TemporaryDirectory() as folder:
        archive = ["git", "-C", str(ROOT), "archive", chosen.commit]
        packed = subprocess.run(archive, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        again = [sys.executable, __file__, "--root", folder, "--output", str(then)]
        subprocess.run(again, env=os.environ | {"PYTHONPATH": folder}, check=True)
    found = differences(then, chosen.output)
    for name, lines in found.items():
        if lines:
            print(f"{name}: {len(lines)} lines differ", *lines[:MOST], sep="\n  ")
    same = sum(not lines for lines in found.values())
    print(f"{same} of {len(found)} figures and pages show the digits of {chosen.commit}")
    return 1 if same < len(found) else 0


if __name__ == "__main__":
    sys.exit(main())

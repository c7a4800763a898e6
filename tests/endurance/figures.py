"""The table of docs/reliability.md from the counts of an endurance run.

    python tests/endurance/figures.py [RESULT]

RESULT, build/endurance/result.json by default, becomes the committed tests/endurance/result.json.
"""

import json
import re
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
COMMITTED = HERE / "result.json"
BEGIN, END = "<!-- figures of the run -->", "<!-- end of the figures -->"


def merged(parts):
    """Parts of one kind as one row: what is before the bracket, or the number of the part."""
    rows = {}
    for name, part in parts.items():
        kind = re.sub(r"\[.*\]$", "", name)
        row = rows.setdefault(kind, {"attempts": 0, "ended": {}, "falls": 0, "kinds": 0})
        row["attempts"] += part["attempts"]
        row["kinds"] += 1
        row["falls"] += sum(part["falls"].values())
        for how, count in part["ended"].items():
            row["ended"][how] = row["ended"].get(how, 0) + count
    return rows


def table(result):
    """Markdown of a result."""
    minutes, seed = result["seconds"] / 60, result["seed"]
    lines = [
        f"Seed {seed}, {result['system']}, {result['cores']} cores, Python {result['python']}, "
        f"torch {result['torch']}: {minutes:.0f} minutes.",
        *([result["note"]] if "note" in result else []),
        "",
        "| what was tried | attempts | how they ended | fell |",
        "|---|---|---|---|",
    ]
    for kind, row in merged(result["parts"]).items():
        ended = ", ".join(f"{count} {how}" for how, count in sorted(row["ended"].items()))
        lines.append(f"| {kind} | {row['attempts']} | {ended} | {row['falls']} |")
    return "\n".join(lines)


def written(page, result):
    """The page with the table of a result."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(result)}\n\n{END}{rest.split(END)[1]}"


def main():
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE.parents[1] / "build/endurance"
    source = source / "result.json" if source.is_dir() else source
    if source.resolve() != COMMITTED:
        shutil.copy(source, COMMITTED)
    result = json.loads(COMMITTED.read_text("utf8"))
    PAGE.write_text(written(PAGE.read_text("utf8"), result), "utf8")


if __name__ == "__main__":
    main()

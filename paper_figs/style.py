"""What the figures share: results, files, colours, panel letters.

Every script reads a committed result, draws it and computes nothing. It writes a PNG for pages and
a PDF for papers.
"""

import json
import string
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
# Okabe & Ito: colour-blind readers tell them apart.
BLACK, BLUE, SKY, GREEN = "#000000", "#0072b2", "#56b4e9", "#009e73"
VERMILION, ORANGE, PURPLE, GREY = "#d55e00", "#e69f00", "#cc79a7", "#8c8c8c"
COLOURS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, BLACK, GREY)
NC1_TRACE = r"$\widetilde{\mathrm{NC1}}$"
_MOST_LETTERS = 12  # panels; more are named, not lettered


def read(path: Path) -> dict[str, Any]:
    """A result."""
    return json.loads(path.read_text(encoding="utf8"))


def write(figure: Figure, script: str, *, dpi: int = 150) -> None:
    """Save the figure beside its script as .png and .pdf, and say so."""
    panels = [axis for axis in figure.axes if axis.axison and axis.get_label() != "<colorbar>"]
    for axis in panels:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, which="both")
    if 1 < len(panels) <= _MOST_LETTERS:
        for axis, letter in zip(panels, string.ascii_lowercase, strict=False):
            _letter(axis, letter)
    for suffix, options in ((".png", {"dpi": dpi}), (".pdf", {"metadata": {"CreationDate": None}})):
        path = Path(script).with_suffix(suffix)
        figure.savefig(path, **options)
        print(f"wrote {path}")


def _letter(axis: Axes, letter: str) -> None:
    place = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    axis.annotate(letter, xytext=(-22, 6), fontsize=11, fontweight="bold", **place)

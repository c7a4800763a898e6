"""What the figures share: results, files, colours, data sets, panel letters, marks of scales.

Every script reads a committed result, draws it and computes nothing. It writes a PNG for pages and
a PDF for papers. A panel's quantities stand on its axes; its title says for what.
"""

import json
import string
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results"
# Okabe & Ito: colour-blind readers tell them apart. What is ordered (layers, depths) is in viridis.
BLACK, BLUE, SKY, GREEN = "#000000", "#0072b2", "#56b4e9", "#009e73"
VERMILION, ORANGE, PURPLE, GREY = "#d55e00", "#e69f00", "#cc79a7", "#8c8c8c"
SETS = {
    "digits": "digits",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
}
OF_SET = {"digits": ORANGE, "mnist": GREEN, "fashion_mnist": VERMILION, "cifar10": BLUE}
NC1_TRACE = r"$\widetilde{\mathrm{NC1}}$"
_PLAIN = 100  # a logarithmic scale of less than this ratio is marked with plain numbers
_MARKS = {3: (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), 6: (1, 1.5, 2, 3, 4, 6, 8), _PLAIN: (1, 2, 5)}


def read(path: Path) -> dict[str, Any]:
    """A result."""
    return json.loads(path.read_text(encoding="utf8"))


def ordered(count: int) -> list[tuple[float, ...]]:
    """So many colours in order, from dark to light, none too light for paper."""
    return [matplotlib.colormaps["viridis"](0.85 * i / max(count - 1, 1)) for i in range(count)]


def seeds(count: int) -> str:
    """How many there are, in words."""
    return "one seed" if count == 1 else f"{count} seeds"


def write(figure: Figure, script: str, *, dpi: int = 150) -> None:
    """Save the figure beside its script as .png and .pdf, and say so."""
    panels = [axis for axis in figure.axes if axis.axison and axis.get_label() != "<colorbar>"]
    for axis in panels:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, which="both")
        _mark(axis.xaxis)
        _mark(axis.yaxis)
    if len(panels) > 1:
        for axis, letter in zip(panels, string.ascii_lowercase, strict=False):
            _letter(axis, letter)
    pdf = {"dpi": 300, "metadata": {"CreationDate": None}}  # of the images in it
    for suffix, options in ((".png", {"dpi": dpi}), (".pdf", pdf)):
        path = Path(script).with_suffix(suffix)
        figure.savefig(path, **options)
        print(f"wrote {path}")


def _letter(axis: Axes, letter: str) -> None:
    place = {"xy": (0, 1), "xycoords": "axes fraction", "textcoords": "offset points"}
    axis.annotate(letter, xytext=(-22, 6), fontsize=11, fontweight="bold", **place)


def _mark(axis: Axis) -> None:
    """Numbers as they are read, where a logarithmic scale is too short for powers of ten."""
    low, high = axis.get_view_interval()
    if (
        axis.get_scale() != "log"
        or high > _PLAIN * low
        or isinstance(axis.get_major_locator(), FixedLocator)
    ):
        return
    steps = next(steps for ratio, steps in _MARKS.items() if high <= ratio * low)
    marks = [step * 10.0**power for power in range(-12, 12) for step in steps]
    axis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

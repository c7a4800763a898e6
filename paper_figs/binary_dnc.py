"""Draw loss and DNC metrics over training, and the threshold, from results/binary_dnc.json."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, RESULTS, VERMILION, ordered, read, seeds, write

RESULT = RESULTS / "binary_dnc.json"
SHOWN_DEPTH = 4


def draw(result: dict) -> Figure:
    """Excess loss by depth; DNC1, DNC2 - 1 and DNC3 by layer at one depth; optimum by λ."""
    descent = result["parts"]["descent"]
    count = seeds(result["manifest"]["config"]["seeds"])
    figure = Figure(figsize=(13, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).flat
    _excess(next(axes), descent, count)
    names = {"dnc1": ("DNC1", 0.0), "dnc2": ("DNC2 − 1", 1.0), "dnc3": ("DNC3", 0.0)}
    for name, (label, offset) in names.items():
        _metric(next(axes), descent, name, label, offset, count)
    _threshold(next(axes), result["parts"]["threshold"]["rows"])
    _spread(next(axes), result["parts"])
    for axis in figure.axes:
        axis.grid(alpha=0.2)
    return figure


def _excess(axis: Axes, descent: dict, count: str) -> None:
    rows = descent["history"]
    for row, colour in zip(rows, ordered(len(rows)), strict=True):
        axis.loglog(_steps(row), row["excess"], color=colour, label=f"L = {row['depth']}")
    axis.axhline(1e-6, color="k", lw=0.8, ls=":")
    axis.set_title(f"median of {count}", fontsize=10)
    axis.set_ylabel("|f − f*|")
    axis.set_xlabel("gradient-descent steps")
    axis.legend(frameon=False, fontsize=8)


def _metric(axis: Axes, descent: dict, name: str, label: str, offset: float, count: str) -> None:
    (row,) = (row for row in descent["history"] if row["depth"] == SHOWN_DEPTH)
    for layer, colour in enumerate(ordered(SHOWN_DEPTH)):
        values = [max(value - offset, 1e-32) for value in row[name][layer]]
        which = r"$H_1$" if layer == 0 else rf"$\sigma(H_{layer + 1})$"
        axis.loglog(_steps(row), values, color=colour, label=which)
    axis.set_title(f"L = {SHOWN_DEPTH}, median of {count}", fontsize=10)
    axis.set_ylabel(label)
    axis.set_xlabel("gradient-descent steps")
    axis.legend(frameon=False, fontsize=8)


def _steps(row: dict) -> list[int]:
    return [max(step, 1) for step in row["steps"]]


def _threshold(axis: Axes, rows: list[dict]) -> None:
    depths = sorted({row["depth"] for row in rows})
    for depth, colour in zip(depths, ordered(len(depths)), strict=True):
        own = [row for row in rows if row["depth"] == depth]
        factors = [row["factor"] for row in own]
        axis.plot(factors, [row["optimum"] for row in own], color=colour, label=f"L = {depth}")
        axis.plot(factors, [row["best"] for row in own], "o", color=colour, ms=5, mfc="none")
    axis.plot([], [], "o", color="k", ms=5, mfc="none", label=f"best of {len(rows[0]['found'])}")
    axis.axvline(1, color="k", lw=0.8, ls=":")
    axis.set_title("optimum in closed form, and best found", fontsize=10)
    axis.set_ylabel("f*")
    axis.set_xlabel("λ / threshold")
    axis.legend(frameon=False, fontsize=8)


def _spread(axis: Axes, parts: dict) -> None:
    depths = sorted(set(parts["descent"]["depth_of_run"]))
    shown = {"descent": (VERMILION, "gradient descent"), "fast": (BLUE, "L-BFGS")}
    for shift, (name, (colour, label)) in zip((-0.12, 0.12), shown.items(), strict=True):
        part = parts[name]
        found = part["descent" if name == "descent" else "lbfgs"]
        x = [depth + shift for depth in part["depth_of_run"]]
        y = [max(abs(f - o), 1e-17) for f, o in zip(found, part["optimum"], strict=True)]
        axis.semilogy(x, y, "o", color=colour, ms=4, alpha=0.7, label=label)
    axis.axhline(1e-6, color="k", lw=0.8, ls=":")
    axis.set_xticks(depths)
    axis.set_xlabel("L")
    axis.set_title("at the end, every seed", fontsize=10)
    axis.set_ylabel("|f − f*|")
    axis.legend(frameon=False, fontsize=8)


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)

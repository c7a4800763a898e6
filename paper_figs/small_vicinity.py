"""Draw what the closed form near collapse leaves out, and where which decay matters more."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from style import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    NC1_TRACE,
    ORANGE,
    PURPLE,
    RESULTS,
    SKY,
    VERMILION,
    read,
    write,
)

RESULT = RESULTS / "small_vicinity" / "result.json"
PARTS = {"weight": "weight", "means": "class means", "within": r"$\Sigma_W$"}
COLOURS = (BLACK, BLUE, VERMILION, GREEN, PURPLE)
ORDERS = {0: ":", 1: "-", 2: "--", 3: "-."}
BETAS = {"0.01": SKY, "0.1": ORANGE, "1": VERMILION}


def draw(result: dict) -> Figure:
    """Above: relative errors by distance from collapse; below: where the decays change places."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    above, below = figure.subplots(2, 3)
    for axis, (part, label) in zip(above, PARTS.items(), strict=True):
        for colour, run in zip(COLOURS, result["distance"].values(), strict=False):
            _errors(axis, run["rows"], part, colour)
        axis.set(xscale="log", yscale="log", ylim=(1e-12, 30))
        axis.set_xlabel("distance from collapse")
        axis.set_ylabel(f"relative error, {label}")
    names = [name.split("/")[-1].removesuffix("-seed0") for name in result["distance"]]
    names = ["public-resnet18" if name == "layers" else name for name in names]
    lines = [Line2D([], [], color=c, label=n) for c, n in zip(COLOURS, names, strict=False)]
    lines += [Line2D([], [], color=GREY, ls=s, label=f"order {o}") for o, s in ORDERS.items()]
    lines.append(Line2D([], [], color=GREY, marker="o", ls="", label="says it is small"))
    figure.legend(handles=lines, loc="outside upper center", ncols=5, frameon=False, fontsize=8)
    turning = result["turning"]
    _turns(below[0], turning, {"any β": (turning["nc2_etf"], BLACK)}, "NC2", "any β")
    curves = {f"β = {b}": (turning["nc1_trace"][f"{b}, 0.5"], c) for b, c in BETAS.items()}
    _turns(below[1], turning, curves, f"{NC1_TRACE}, half of it off the span", "β = 0.1")
    below[2].set_axis_off()
    _key(below[2])
    always = f"NC1, and {NC1_TRACE} with all variability\nin the span of the class means:\n"
    below[2].text(0.05, 0.25, always + r"$\lambda_W$ moves them more everywhere.", fontsize=10)
    return figure


def _errors(axis: Axes, rows: list, part: str, colour: str) -> None:
    distances = [row["distance"] for row in rows]
    for order, style in ORDERS.items():
        errors = [row["errors"][part][order] for row in rows]
        axis.plot(distances, errors, style, color=colour, lw=1.2)
    small = [row for row in rows if row["status"] == "CONVERGED"]
    axis.plot([r["distance"] for r in small], [r["errors"][part][1] for r in small], "o",
              color=colour, ms=4)  # fmt: skip


def _turns(axis: Axes, turning: dict, curves: dict, title: str, shaded: str) -> None:
    """Curves on which |∂_H| = |∂_W|; shaded, for one, where λ_H moves the metric more."""
    w = h = turning["axis"]
    for name, (signs, colour) in curves.items():
        rows = [[float("nan") if s is None else s for s in row] for row in zip(*signs, strict=True)]
        axis.contour(w, h, rows, levels=[0], colors=colour, linewidths=1.5)
        if name == shaded:
            axis.contourf(w, h, rows, levels=[0, 2], colors=[colour], alpha=0.12)
    axis.plot([w[0], w[-1]], [1 / w[0], 1 / w[-1]], "--", color=GREY, lw=1)
    axis.set(xscale="log", yscale="log", xlim=(w[0], w[-1]), ylim=(h[0], h[-1]))
    axis.set_xlabel(r"$\lambda_W$")
    axis.set_ylabel(r"$\lambda_H$")
    axis.set_title(f"{title}\nshaded ({shaded}): $\\lambda_H$ moves it more", fontsize=9)


def _key(axis: Axes) -> None:
    """What the curves of both panels are, beside them: there is no room on them."""
    handles = [Line2D([], [], color=BLACK, label="d: any β")]
    handles += [Line2D([], [], color=c, label=f"e: β = {b}") for b, c in BETAS.items()]
    handles.append(Line2D([], [], color=GREY, ls="--", label=r"$\lambda_W\lambda_H = 1$"))
    axis.legend(handles=handles, frameon=False, fontsize=9, loc="upper left")


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)

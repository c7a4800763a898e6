"""Draw the collapse of a ResNet-56 that others trained, block by block, on training and test."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLUE, GREEN, GREY, NC1_TRACE, ORANGE, RESULTS, VERMILION, read, write

RESULT = RESULTS / "public_networks" / "resnet56_cifar10.json"


def collapse(axis: Axes, layers: list[dict]) -> None:
    """NC1 and ÑC1 with their intervals, and test collapse."""
    x = np.arange(len(layers))
    for metric, label, colour in (("nc1", "NC1", BLUE), ("nc1_trace", NC1_TRACE, VERMILION)):
        values = [layer["trained"][metric] for layer in layers]
        axis.plot(x, values, "o-", color=colour, ms=3.5, lw=1.2, label=label)
        bounds = np.array([layer["intervals"][metric] for layer in layers], float)
        axis.fill_between(x, *bounds.T, color=colour, alpha=0.25, lw=0)
    test = [layer["test_collapse"] for layer in layers]
    axis.plot(x, test, "s--", color=GREEN, ms=3, lw=1, label=f"{NC1_TRACE}, test about train means")
    axis.set_yscale("log")
    axis.set_ylabel("variability within classes")


def frame(axis: Axes, layers: list[dict]) -> None:
    """The frame of the class means, and nearest-mean errors."""
    x = np.arange(len(layers))
    nc2 = [layer["trained"]["nc2_etf"] for layer in layers]
    axis.plot(x, nc2, "o-", color=BLUE, ms=3.5, lw=1.2, label="NC2, distance to a simplex ETF")
    for split, style in (("trained", "-"), ("test", "--")):
        errors = [1 - layer["nearest_mean"][split] for layer in layers]
        axis.plot(x, errors, style, color=ORANGE, lw=1.2, label=f"nearest-mean error, {split}")
    axis.set_ylim(0)
    axis.set_ylabel("distance (NC2) or error")


def draw(result: dict) -> Figure:
    """Variability on the left, class means on the right; a dotted line where the width changes."""
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    axes = figure.subplots(1, 2)
    layers, names = list(result["layers"].values()), list(result["layers"])
    collapse(axes[0], layers)
    frame(axes[1], layers)
    for axis in axes:
        axis.set_xticks(range(0, len(names), 3), names[::3], rotation=60, ha="right", fontsize=7)
        for stage in list(result["straightness"])[1:]:
            axis.axvline(names.index(stage.split(" to ")[0]) - 0.5, color=GREY, lw=0.6, ls=":")
        axis.set_xlabel("block")
        axis.legend(frameon=False, fontsize=8)
    note = "bands: 95 % intervals; dotted: the width changes"
    figure.suptitle(f"a ResNet-56 that others trained on CIFAR-10; {note}", fontsize=10)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)

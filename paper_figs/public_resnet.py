"""Draw the collapse of a public ResNet-18, block by block, on all CIFAR-10 training images."""

from matplotlib.figure import Figure
from style import BLUE, GREY, NC1_TRACE, ORANGE, RESULTS, VERMILION, read, write

RESULT = RESULTS / "public_resnet" / "metrics.json"
LEFT = {
    "nc1": ("NC1", BLUE, "o-"),
    "nc1_trace": (NC1_TRACE, VERMILION, "D-"),
    "cdnv": ("CDNV", ORANGE, "s-"),
}
RIGHT = {
    "nc2_etf": ("distance to a simplex ETF", BLUE, "o-"),
    "nc2_equiangular": (r"mean $|\cos + 1/(K-1)|$", VERMILION, "D-"),
    "nc2_equinorm": ("std / mean of the norms", ORANGE, "s-"),
}


def draw(result: dict) -> Figure:
    """Variability on the left, the frame of the class means on the right."""
    names = list(result["layers"])
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, metrics in zip(axes, (LEFT, RIGHT), strict=True):
        for metric, (label, colour, style) in metrics.items():
            values = [result["layers"][name][metric] for name in names]
            axis.plot(values, style, color=colour, ms=4.5, lw=1.4, label=label)
        axis.set_xticks(range(len(names)), names, rotation=35, ha="right", fontsize=8)
        axis.set_xlabel("layer")
        axis.legend(frameon=False, fontsize=9)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("variability within classes")
    axes[1].set_ylabel("class means: distance from a simplex")
    figure.suptitle("a ResNet-18 that others trained on CIFAR-10", fontsize=10)
    axes[0].axhline(0.2, color=GREY, lw=0.9, ls=":")
    axes[0].text(0, 0.21, "CDNV = 0.2", color=GREY, fontsize=8)
    axes[1].set_ylim(0)
    return figure


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)

"""Draw the collapse of a public ResNet-18, block by block, on all CIFAR-10 training images."""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULT = HERE.parent / "experiments" / "results" / "public_resnet" / "metrics.json"
OUTPUT = HERE / "public_resnet.png"
LEFT = {
    "nc1": ("NC1", "#1b3a5c", "o-"),
    "nc1_trace": (r"$\widetilde{\mathrm{NC1}}$", "#d1495b", "D-"),
    "cdnv": ("CDNV", "#e8a13a", "s-"),
}
RIGHT = {
    "nc2_etf": ("distance to a simplex ETF", "#1b3a5c", "o-"),
    "nc2_equiangular": (r"mean $|\cos + 1/(K-1)|$", "#d1495b", "D-"),
    "nc2_equinorm": ("std / mean of the norms", "#e8a13a", "s-"),
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
        axis.legend(frameon=False, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yscale("log")
    axes[0].axhline(0.2, color="#8d99ae", lw=0.9, ls=":")
    axes[0].text(0, 0.21, "CDNV = 0.2", color="#5c677d", fontsize=8)
    axes[1].set_ylim(0)
    return figure


if __name__ == "__main__":
    draw(json.loads(RESULT.read_text(encoding="utf8"))).savefig(OUTPUT, dpi=150)
    print(f"wrote {OUTPUT}")

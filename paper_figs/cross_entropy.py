"""Draw what cross-entropy repairs: errors of both losses and the rivals, and the fitted λ_W."""

import math
import sys
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLACK, BLUE, GREY, NC1_TRACE, ORANGE, RESULTS, ROOT, VERMILION, read, write

sys.path.insert(0, str(ROOT))
from experiments.cross_entropy import error, rows_of

RESULT = RESULTS / "cross_entropy" / "result.json"
MODELS = {
    "unchanged": (GREY, "x", "H0 unchanged (sees nothing)"),
    "shrinkage": (BLACK, "+", r"$\Sigma_{W0}$ times a factor (sees NC1)"),
    "squared, known": (ORANGE, "s", r"squared loss, $\lambda_W$ known (sees NC1)"),
    "cross-entropy, known": (BLUE, "s", r"cross-entropy, $\lambda_W$ known (sees NC1)"),
    "squared, fit": (ORANGE, "o", r"squared loss, fit (sees means and $\Sigma_W$)"),
    "cross-entropy, fit": (BLUE, "o", r"cross-entropy, fit (sees means and $\Sigma_W$)"),
}
PANELS = {
    "nc1_trace": NC1_TRACE,
    "nc1_span": "NC1 in the span",
    "growth": r"growth of tr $\Sigma_B$",
}


def draw(result: dict[str, Any]) -> Figure:
    """A row a network; errors by quantity, and where the fits put λ_W."""
    networks = result["networks"]
    figure = Figure(figsize=(12, 5), layout="constrained")
    *axes, last = figure.subplots(1, len(PANELS) + 1, sharey=True)
    for axis, (quantity, title) in zip(axes, PANELS.items(), strict=True):
        _errors(axis, networks, quantity)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("|log(predicted/measured)|", fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(3e-4, 20)
    for row, network in enumerate(networks):
        for loss, color, shift in (("squared", ORANGE, -0.15), ("cross-entropy", BLUE, 0.15)):
            for pair in network["pairs"].values():
                found = pair[loss]["fit"]
                fill = "none" if "lambda_w" in found["at_bound"] else color
                last.plot(found["lambda_w"], row + shift, "o", color=color, mfc=fill, ms=5)
        if network["weight_decay"] is not None:
            known = [p["squared"]["known"]["lambda_w"] for p in network["pairs"].values()]
            last.plot(known, [row] * len(known), "|", color=VERMILION, ms=11)
    last.set_xscale("log")
    last.set_title("fits (open: at a bound;\nbars: K·decay)", fontsize=9)
    last.set_xlabel(r"$\lambda_W$", fontsize=9)
    axes[0].set_yticks(range(len(networks)), [n["name"] for n in networks], fontsize=8)
    axes[0].invert_yaxis()
    handles = [
        axes[0].plot(
            [], [], marker, color=color, mfc="none" if "fit" in name else color, label=label
        )[0]
        for name, (color, marker, label) in MODELS.items()
    ]
    figure.legend(
        handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=8,
        title="a to c: medians over the pairs of blocks of a network, one seed each; d: every pair",
        title_fontsize=9,
    )  # fmt: skip
    return figure


def _errors(axis: Axes, networks: list[dict[str, Any]], quantity: str) -> None:
    for row, network in enumerate(networks):
        measured = [pair["measured"] for pair in network["pairs"].values()]
        for place, (name, predictions) in enumerate(rows_of(network).items()):
            color, marker, _ = MODELS[name]
            value = median(
                error(p, m, quantity) for p, m in zip(predictions, measured, strict=True)
            )
            if math.isfinite(value):
                fill = "none" if "fit" in name else color
                at = row - 0.25 + 0.1 * place
                axis.plot(max(value, 4e-4), at, marker, color=color, mfc=fill, ms=6)
    axis.grid(axis="y", color="0.92")


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)

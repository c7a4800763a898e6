"""Draw what doubled or zero weight decay does to NC1, ÑC1 and NC2 (Tirer et al. 2023, Figure 3).

Above: a ResNet, per epoch. Below: MLPs with many seeds, effects paired by seed.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import (
    BLACK,
    GREEN,
    NC1_TRACE,
    ORANGE,
    PURPLE,
    RESULTS,
    SETS,
    SKY,
    VERMILION,
    read,
    seeds,
    write,
)

RESULT = RESULTS / "weight_decay" / "result.json"
PAIRED = RESULTS / "weight_decay_paired" / "result.json"
PANELS = {"nc1": "NC1", "nc1_trace": NC1_TRACE, "nc2_etf": "NC2"}
STYLES = {
    "baseline": ("k", "-", "baseline"),
    "last layer x2": (SKY, "-", "last layer ×2"),
    "last layer 0": (SKY, "--", "last layer 0"),
    "features x2": (VERMILION, "-", "feature layers ×2"),
    "features 0": (VERMILION, "--", "feature layers 0"),
}
LOSSES = {"mse": "squared loss, no bias", "cross_entropy": "cross-entropy, bias"}
SHORT = {"mse": "squared loss", "cross_entropy": "cross-entropy"}
MARKS = {"mse": "o", "cross_entropy": "s"}
COLOURS = (GREEN, ORANGE, BLACK, PURPLE, SKY)


def draw(result: dict) -> Figure:
    """A row for each loss of the ResNet, a row of effects; a column for each metric."""
    summaries = read(PAIRED)["summaries"]
    losses = [name for name in LOSSES if any(run["loss"] == name for run in result["runs"])]
    figure = Figure(figsize=(10.5, 2.7 * len(losses) + 3.3), layout="constrained")
    grid = figure.subplots(len(losses) + 1, 3, squeeze=False)
    for row, loss in zip(grid, losses, strict=False):
        of_loss = [run for run in result["runs"] if run["loss"] == loss]
        for axis, (metric, title) in zip(row, PANELS.items(), strict=True):
            _epochs(axis, of_loss, metric)
            axis.set_title(f"ResNet, {LOSSES[loss]}", fontsize=9.5)
            axis.set_ylabel(title, fontsize=9.5)
    for axis, (metric, title) in zip(grid[-1], PANELS.items(), strict=True):
        _effects(axis, summaries, metric)
        axis.set_title("MLPs, effect of a weight decay", fontsize=9.5)
        axis.set_ylabel(f"log({title} / baseline's)", fontsize=9.5)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=5, frameon=False, fontsize=9,
        title="thick: seed 0, thin: seed 1", title_fontsize=8,
    )  # fmt: skip
    handles, labels = grid[-1, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8,
        title="mean over seeds, bars: two standard errors", title_fontsize=8,
    )  # fmt: skip
    return figure


def _epochs(axis: Axes, runs: list[dict], metric: str) -> None:
    first = min(run["seed"] for run in runs)
    for run in runs:
        colour, style, label = STYLES[run["decay"]]
        thick = run["seed"] == first
        axis.plot(
            [e["epoch"] for e in run["epochs"]],
            [e["layers"][run["layer"]][metric] for e in run["epochs"]],
            style, color=colour, lw=1.6 if thick else 0.6, label=label if thick else None,
        )  # fmt: skip
    if metric != "nc2_etf":
        axis.set_yscale("log")
    axis.set_xlabel("epoch", fontsize=9)


def _effects(axis: Axes, summaries: list[dict], metric: str) -> None:
    axis.axhline(0, color="0.6", lw=0.8)
    for i, row in enumerate(summaries):
        found = row["effects"][metric]
        place = [k + 0.14 * (i - (len(summaries) - 1) / 2) for k in range(len(found))]
        axis.errorbar(
            place,
            [effect["mean"] for effect in found.values()],
            [2 * effect["error"] for effect in found.values()],
            fmt=MARKS[row["loss"]], ms=4, lw=1, capsize=2,
            color=COLOURS[i],
            label=f"{SETS[row['data']]}, {SHORT[row['loss']]}, {row['epochs']} epochs, "
            f"{seeds(row['seeds'])}",
        )  # fmt: skip
    names = [STYLES[decay][2].replace(" layer", "\nlayer", 1) for decay in found]
    axis.set_xticks(range(len(names)), names)


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)

"""Draw predicted and measured effects of weight decay from weight_decay_theory/result.json."""

import math

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from style import BLACK, BLUE, GREY, NC1_TRACE, ORANGE, RESULTS, VERMILION, read, seeds, write

RESULT = RESULTS / "weight_decay_theory" / "result.json"
PANELS = {"nc1": "NC1", "nc1_trace": NC1_TRACE, "nc2_etf": "NC2"}
STYLES = {
    "measured": ("o", BLACK, "measured"),
    "one step": ("D", VERMILION, "optimum of (1) after the baseline's block before"),
    "step from its own": ("s", ORANGE, "optimum of (1) after its own block before"),
    "path": ("v", BLUE, "central path from the first layer"),
    "the block before": ("x", GREY, "the block before (no theory)"),
}


def draw(result: dict) -> Figure:
    """One panel a metric: ratio to the baseline by change of weight decay, of every seed."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (metric, title) in zip(axes, PANELS.items(), strict=True):
        _effects(axis, result, metric)
        axis.set_ylabel(f"{title} of the last block / baseline's", fontsize=9)
    config = result["manifest"]["config"]
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside upper center", ncols=3, frameon=False, fontsize=9,
        title=f"residual MLPs on digits, squared loss, decay {config['weight_decay']:g}, "
        f"{seeds(len(config['seeds']))} (marks) and their mean (bars)", title_fontsize=9,
    )  # fmt: skip
    return figure


def _effects(axis: Axes, result: dict, metric: str) -> None:
    changes = list(result["summary"][metric])
    for number, (name, (marker, colour, label)) in enumerate(STYLES.items()):
        shift = 0.15 * (number - 2)
        for place, change in enumerate(changes):
            values = [
                math.exp((run["measured"] if name == "measured" else run["predicted"][name])
                         [change][metric])
                for run in result["runs"]
            ]  # fmt: skip
            mean = math.exp(result["summary"][metric][change][name]["mean"])
            at, own = place + shift, label if place == 0 else None
            look = {"color": colour, "ls": "", "marker": marker, "ms": 4, "mfc": "none"}
            axis.plot([at] * len(values), values, **look, label=own)
            axis.hlines(mean, at - 0.07, at + 0.07, color=colour, lw=2)
    axis.axhline(1, color="0.6", lw=0.8)
    for edge in range(1, len(changes)):
        axis.axvline(edge - 0.5, color="0.9", lw=0.8)
    axis.set_xticks(range(len(changes)), [c.replace(" x", "\n×") for c in changes])
    axis.set_xlabel("weight decay", fontsize=9)
    axis.set_yscale("log")


if __name__ == "__main__":
    write(draw(read(RESULT)), __file__)
